-- ngx.worker: the processes of this server.

local ffi = require "ffi"
local base = require "resty.core.base"
require "resty.core.phase"

local C = ffi.C
local get_phase = ngx.get_phase
local get_size_ptr = base.get_size_ptr
local get_string_buf = base.get_string_buf
local tonumber = tonumber

ffi.cdef[[
int ngx_http_lua_ffi_worker_id(void);
int ngx_http_lua_ffi_worker_pid(void);
int ngx_http_lua_ffi_worker_count(void);
int ngx_http_lua_ffi_worker_exiting(void);
int ngx_http_lua_ffi_worker_pids(int *pids, size_t *pids_len);
]]

local int_bytes = ffi.sizeof("int")
local int_pointer = ffi.typeof("int *")
local generations = 4       -- during a reload old and new workers live side by side

ngx.worker = {}

function ngx.worker.exiting()
    return C.ngx_http_lua_ffi_worker_exiting() ~= 0
end

function ngx.worker.pid()
    return (C.ngx_http_lua_ffi_worker_pid())
end

function ngx.worker.id()
    local id = C.ngx_http_lua_ffi_worker_id()
    if id >= 0 then
        return id
    end
    return nil
end

function ngx.worker.count()
    return (C.ngx_http_lua_ffi_worker_count())
end

function ngx.worker.pids()
    local phase = get_phase()
    if phase == "init" or phase == "init_worker" then
        return nil, "API disabled in the current context"
    end
    local pids = {}
    local room = C.ngx_http_lua_ffi_worker_count() * generations
    local count = get_size_ptr()
    count[0] = room
    local list = ffi.cast(int_pointer, get_string_buf(room * int_bytes))
    if C.ngx_http_lua_ffi_worker_pids(list, count) == base.FFI_OK then
        for i = 1, tonumber(count[0]) do
            pids[i] = list[i - 1]
        end
    end
    return pids
end

return { _VERSION = base.version }
