-- The process this code runs in.

local ffi = require "ffi"
local base = require "resty.core.base"
require "resty.core.phase"

local C = ffi.C
local errmsg = base.get_errmsg_ptr()
local get_phase = ngx.get_phase
local tonumber = tonumber
local type = type

ffi.cdef[[
int ngx_http_lua_ffi_enable_privileged_agent(char **err, unsigned int connections);
int ngx_http_lua_ffi_get_process_type(void);
void ngx_http_lua_ffi_process_signal_graceful_exit(void);
int ngx_http_lua_ffi_master_pid(void);
]]

local _M = { version = base.version }

local names = {
    [0] = "single",
    [1] = "master",
    [2] = "signaller",
    [3] = "worker",
    [4] = "helper",
    [99] = "privileged agent",
}
local connections_default = 512

function _M.type()
    return names[tonumber(C.ngx_http_lua_ffi_get_process_type())]
end

function _M.enable_privileged_agent(connections)
    if get_phase() ~= "init" then
        return nil, "API disabled in the current context"
    end
    connections = connections or connections_default
    if type(connections) ~= "number" or connections < 0 then
        return nil, "bad 'connections' argument: number expected and greater than 0"
    end
    if C.ngx_http_lua_ffi_enable_privileged_agent(errmsg, connections) == base.FFI_ERROR then
        return nil, ffi.string(errmsg[0])
    end
    return true
end

function _M.signal_graceful_exit()
    C.ngx_http_lua_ffi_process_signal_graceful_exit()
end

function _M.get_master_pid()
    local pid = tonumber(C.ngx_http_lua_ffi_master_pid())
    if pid ~= base.FFI_ERROR then
        return pid
    end
    return nil
end

return _M
