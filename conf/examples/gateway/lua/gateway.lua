-- What happens to a request before it is passed on: blocklist, key, limit, release.

local canary = require "canary"
local consumers = require "consumers"
local limit_req = require "resty.limit.req"
local store = require "store"

local _M = {}

local function refuse(status, reason)
    ngx.var.refused = reason                  -- for the access log
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.say('{"error":"', reason, '"}')
    return ngx.exit(status)
end

-- With nothing known and Redis away nobody is blocked: the list is an aid, the key is the door.
local function blocked(what, name)
    return store.get(0, "sismember", "gateway:blocked", what .. ":" .. name) == 1
end

-- What exceeds the rate but not the burst is served at once. A limiter that fails lets through.
local function over_limit(consumer)
    local limiter = assert(limit_req.new("limits", consumer.rate, consumer.burst))
    local delay, err = limiter:incoming(consumer.name, true)
    if not delay and err ~= "rejected" then
        ngx.log(ngx.ERR, "rate limit of ", consumer.name, ": ", err)
    end
    return err == "rejected"
end

function _M.access()
    local var = ngx.var
    if blocked("address", var.remote_addr) then
        return refuse(403, "address blocked")
    end
    local consumer = consumers.by_key(var.http_x_api_key)
    if not consumer then
        ngx.header["WWW-Authenticate"] = 'Key realm="gateway"'
        return refuse(401, "unknown key")
    end
    var.consumer = consumer.name
    if blocked("consumer", consumer.name) then
        return refuse(403, "consumer blocked")
    end
    if over_limit(consumer) then
        ngx.header["Retry-After"] = 1
        return refuse(429, "too many requests")
    end
    var.release = canary.release(consumer.name)
end

return _M
