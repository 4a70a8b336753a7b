-- Served at /lua/greet: says what the request looked like.
return function()
    ngx.say("You asked for ", ngx.var.request_uri, " with ", ngx.req.get_method(), ".")
    ngx.say("Your address is ", ngx.var.remote_addr, ".")
end
