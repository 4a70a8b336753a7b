-- Random bytes from OpenSSL.

local ffi = require "ffi"

local C = ffi.C

ffi.cdef[[
int RAND_bytes(unsigned char *buf, int num);
]]

local _M = { _VERSION = "0.17" }

-- Weak bytes are as good as strong ones nowadays; nil when strong ones cannot be had.
function _M.bytes(length, strong)
    local buffer = ffi.new("unsigned char[?]", length)
    if C.RAND_bytes(buffer, length) ~= 1 and strong ~= false then
        return nil
    end
    return (ffi.string(buffer, length))
end

return _M
