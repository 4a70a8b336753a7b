-- Sending signals by name.

local ffi = require "ffi"

local C = ffi.C
local assert = assert
local type = type

if not pcall(function() return C.kill end) then
    ffi.cdef("int kill(int32_t pid, int sig);")
end
if not pcall(function() return C.strerror end) then
    ffi.cdef("char *strerror(int errnum);")
end
ffi.cdef("int ngx_http_lua_ffi_signal_number(const char *name);")

local _M = { version = 0.04 }

-- The system's number for "TERM" and the like; NONE is 0.
local function signum(name)
    if type(name) == "number" then
        return name
    end
    local number = type(name) == "string" and C.ngx_http_lua_ffi_signal_number(name) or -1
    if number < 0 then
        return nil, "unknown signal name"
    end
    return number
end
_M.signum = signum

function _M.kill(pid, signal)
    local number, err = signum(assert(signal))
    if not number then
        return nil, err
    end
    if C.kill(assert(pid), number) == 0 then
        return true
    end
    return nil, ffi.string(C.strerror(ffi.errno()))
end

return _M
