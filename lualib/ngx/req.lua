-- More of ngx.req.

local set_req_header = require("resty.core.request").set_req_header

local _M = { version = require("resty.core.base").version }

-- Another field of that name, beside those there are.
function _M.add_header(key, value)
    set_req_header(key, value, false)
end

return _M
