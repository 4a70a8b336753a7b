-- ngx.exit.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local yield = coroutine._yield
local error = error

ffi.cdef[[
int ngx_http_lua_ffi_exit(ngx_http_request_t *r, int status, unsigned char *err,
    size_t *errlen);
]]

local error_bytes = 128

function ngx.exit(status)
    local r = get_request()
    if not r then
        error("no request found")
    end
    local why = get_string_buf(error_bytes)
    local length = get_size_ptr()
    length[0] = error_bytes
    local rc = C.ngx_http_lua_ffi_exit(r, status, why, length)
    if rc == base.FFI_OK then
        return yield()
    end
    if rc ~= base.FFI_DONE then
        error(ffi_string(why, length[0]), 2)
    end
end

return { version = base.version }
