-- ngx.escape_uri, ngx.unescape_uri.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local get_string_buf = base.get_string_buf
local type = type
local error = error
local tostring = tostring
local ngx = ngx

ffi.cdef[[
size_t ngx_http_lua_ffi_uri_escaped_length(const unsigned char *src, size_t len, int type);
void ngx_http_lua_ffi_escape_uri(const unsigned char *src, size_t len, unsigned char *dst,
    int type);
size_t ngx_http_lua_ffi_unescape_uri(const unsigned char *src, size_t len, unsigned char *dst);
]]

local component = 2        -- the kind used when none is named
local last_kind = 6

local function as_text(s)
    if type(s) == "string" then
        return s
    end
    return s and tostring(s) or ""
end

function ngx.escape_uri(s, kind)
    s = as_text(s)
    if kind == nil then
        kind = component
    elseif type(kind) ~= "number" then
        error("\"type\" is not a number", 3)
    elseif kind < 0 or kind > last_kind then
        error("\"type\" " .. kind .. " out of range", 3)
    end
    local length = #s
    local escaped = C.ngx_http_lua_ffi_uri_escaped_length(s, length, kind)
    if escaped == length then
        return s
    end
    local buffer = get_string_buf(escaped)
    C.ngx_http_lua_ffi_escape_uri(s, length, buffer, kind)
    return (ffi_string(buffer, escaped))
end

function ngx.unescape_uri(s)
    s = as_text(s)
    local buffer = get_string_buf(#s)
    return (ffi_string(buffer, C.ngx_http_lua_ffi_unescape_uri(s, #s, buffer)))
end

return { version = base.version }
