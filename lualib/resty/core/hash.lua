-- ngx.md5, ngx.md5_bin, ngx.sha1_bin, ngx.crc32_short, ngx.crc32_long.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_new = ffi.new
local ffi_string = ffi.string
local type = type
local error = error
local tostring = tostring
local ngx = ngx

ffi.cdef[[
void ngx_http_lua_ffi_md5_bin(const unsigned char *src, size_t len, unsigned char *dst);
void ngx_http_lua_ffi_md5(const unsigned char *src, size_t len, unsigned char *dst);
int ngx_http_lua_ffi_sha1_bin(const unsigned char *src, size_t len, unsigned char *dst);
unsigned int ngx_http_lua_ffi_crc32_long(const unsigned char *src, size_t len);
unsigned int ngx_http_lua_ffi_crc32_short(const unsigned char *src, size_t len);
]]

local md5_bytes, md5_digits, sha1_bytes = 16, 32, 20
local digest = ffi_new("unsigned char[?]", md5_digits)

local function as_text(s)
    if type(s) == "string" then
        return s
    end
    return s and tostring(s) or ""
end

function ngx.md5_bin(s)
    s = as_text(s)
    C.ngx_http_lua_ffi_md5_bin(s, #s, digest)
    return (ffi_string(digest, md5_bytes))
end

function ngx.md5(s)
    s = as_text(s)
    C.ngx_http_lua_ffi_md5(s, #s, digest)
    return (ffi_string(digest, md5_digits))
end

function ngx.sha1_bin(s)
    s = as_text(s)
    if C.ngx_http_lua_ffi_sha1_bin(s, #s, digest) == 0 then
        error("SHA-1 support missing in Nginx")
    end
    return (ffi_string(digest, sha1_bytes))
end

function ngx.crc32_short(s)
    s = as_text(s)
    return (C.ngx_http_lua_ffi_crc32_short(s, #s))
end

function ngx.crc32_long(s)
    s = as_text(s)
    return (C.ngx_http_lua_ffi_crc32_long(s, #s))
end

return { version = base.version }
