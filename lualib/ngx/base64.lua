-- Base64 for URLs (RFC 4648, section 5), without padding.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local floor = math.floor
local get_string_buf = base.get_string_buf
local type = type

ffi.cdef[[
void ngx_encode_base64url(ngx_str_t *dst, ngx_str_t *src);
intptr_t ngx_decode_base64url(ngx_str_t *dst, ngx_str_t *src);
]]

local _M = { version = base.version }

local to = ffi.new("ngx_str_t[1]")
local from = ffi.new("ngx_str_t[1]")

local function prepare(s, room)
    from[0].data, from[0].len = s, #s
    to[0].data, to[0].len = get_string_buf(room), room
end

function _M.encode_base64url(s)
    if type(s) ~= "string" then
        return nil, "must provide a string"
    end
    prepare(s, floor((#s + 2) / 3) * 4)
    C.ngx_encode_base64url(to, from)
    return (ffi_string(to[0].data, to[0].len))
end

function _M.decode_base64url(s)
    if type(s) ~= "string" then
        return nil, "must provide a string"
    end
    prepare(s, floor((#s + 3) / 4) * 3)
    if C.ngx_decode_base64url(to, from) == base.FFI_ERROR then
        return nil, "invalid input"
    end
    return (ffi_string(to[0].data, to[0].len))
end

return _M
