-- Hexadecimal digits and numbers.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local get_string_buf = base.get_string_buf
local tonumber = tonumber

ffi.cdef[[
unsigned char *ngx_hex_dump(unsigned char *dst, const unsigned char *src, size_t len);
intptr_t ngx_atoi(const unsigned char *line, size_t n);
]]

local _M = { _VERSION = "0.17" }

function _M.to_hex(s)
    local buffer = get_string_buf(#s * 2)
    C.ngx_hex_dump(buffer, s, #s)
    return (ffi_string(buffer, #s * 2))
end

-- The number that the digits are; -1 for anything else.
function _M.atoi(s)
    return (tonumber(C.ngx_atoi(s, #s)))
end

return _M
