-- Helpers of other topics.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local byte = string.byte
local find = string.find

ffi.cdef[[
void ngx_http_lua_ffi_str_replace_char(unsigned char *buf, size_t len, const unsigned char find,
    const unsigned char replace);
]]

local _M = { version = base.version }

-- Every occurrence of one character replaced by another.
function _M.str_replace_char(text, old, new)
    if not find(text, old, nil, true) then
        return text
    end
    local buffer = base.get_string_buf(#text)
    ffi.copy(buffer, text, #text)
    C.ngx_http_lua_ffi_str_replace_char(buffer, #text, byte(old), byte(new))
    return (ffi.string(buffer, #text))
end

return _M
