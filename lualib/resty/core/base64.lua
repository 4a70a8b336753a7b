-- ngx.encode_base64, ngx.decode_base64, ngx.decode_base64mime.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local floor = math.floor
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local type = type
local error = error
local tostring = tostring
local ngx = ngx

ffi.cdef[[
size_t ngx_http_lua_ffi_encode_base64(const unsigned char *src, size_t len, unsigned char *dst,
    int no_padding);
int ngx_http_lua_ffi_decode_base64(const unsigned char *src, size_t len, unsigned char *dst,
    size_t *dlen);
int ngx_http_lua_ffi_decode_base64mime(const unsigned char *src, size_t len, unsigned char *dst,
    size_t *dlen);
]]

function ngx.encode_base64(s, no_padding)
    if type(s) ~= "string" then
        s = s and tostring(s) or ""
    end
    if no_padding and no_padding ~= true then
        error("bad no_padding: boolean expected, got " .. type(no_padding), 2)
    end
    local buffer = get_string_buf(floor((#s + 2) / 3) * 4)
    local length = C.ngx_http_lua_ffi_encode_base64(s, #s, buffer, no_padding and 1 or 0)
    return (ffi_string(buffer, length))
end

local function decoder(decode)
    return function(s)
        if type(s) ~= "string" then
            error("string argument only", 2)
        end
        local buffer = get_string_buf(floor((#s + 3) / 4) * 3)
        local length = get_size_ptr()
        if decode(s, #s, buffer, length) == 0 then
            return nil
        end
        return (ffi_string(buffer, length[0]))
    end
end

ngx.decode_base64 = decoder(function(s, size, buffer, length)
    return (C.ngx_http_lua_ffi_decode_base64(s, size, buffer, length))
end)
ngx.decode_base64mime = decoder(function(s, size, buffer, length)
    return (C.ngx_http_lua_ffi_decode_base64mime(s, size, buffer, length))
end)

return { version = base.version }
