-- More of ngx.resp.

local ffi = require "ffi"
local base = require "resty.core.base"
local response = require "resty.core.response"

local C = ffi.C
local get_request = base.get_request
local error = error
local tonumber = tonumber
local type = type

ffi.cdef[[
int ngx_http_lua_ffi_set_resp_status_and_reason(ngx_http_request_t *r, int status,
    const char *reason, size_t reason_len);
]]

local _M = { version = base.version }

-- Another field of that name, beside those there are.
function _M.add_header(key, value)
    response.set_resp_header(nil, key, value, true)
end

function _M.set_status(status, reason)
    local r = get_request()
    if not r then
        error("no request found")
    end
    if type(status) ~= "number" then
        status = tonumber(status)
    end
    local rc = C.ngx_http_lua_ffi_set_resp_status_and_reason(r, status, reason, #reason)
    if rc == base.FFI_BAD_CONTEXT then
        error("API disabled in the current context", 2)
    end
end

-- The response goes out in full whatever If-Modified-Since and the like ask for.
function _M.bypass_if_checks()
    return response.bypass_if_checks()
end

return _M
