-- The error log from Lua: what was captured of it, its level, and messages without "[lua]".

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local FFI_ERROR = base.FFI_ERROR
local error = error
local tonumber = tonumber
local type = type

ffi.cdef[[
int ngx_http_lua_ffi_errlog_set_filter_level(int level, unsigned char *err, size_t *errlen);
int ngx_http_lua_ffi_errlog_get_msg(char **log, int *loglevel, unsigned char *err,
    size_t *errlen, double *log_time);
int ngx_http_lua_ffi_errlog_get_sys_filter_level(ngx_http_request_t *r);
int ngx_http_lua_ffi_raw_log(ngx_http_request_t *r, int level, const unsigned char *s,
    size_t s_len);
]]

local _M = { version = base.version }

local error_bytes = 128
local logs_default = 10
local text = ffi.new("char *[1]")
local level_read = ffi.new("int[1]")
local time_read = ffi.new("double[1]")

local function error_buffer()
    local length = get_size_ptr()
    length[0] = error_bytes
    return get_string_buf(error_bytes), length
end

function _M.set_filter_level(level)
    if not level then
        return nil, 'missing "level" argument'
    end
    local why, length = error_buffer()
    if C.ngx_http_lua_ffi_errlog_set_filter_level(level, why, length) == FFI_ERROR then
        return nil, ffi_string(why, length[0])
    end
    return true
end

-- A flat list of level, time and text of each message, oldest first.
function _M.get_logs(max, logs)
    max = max or logs_default
    logs = logs or base.new_tab(max * 3 + 1, 0)
    local why, length = error_buffer()
    local count = 0
    for _ = 1, max do
        local bytes = C.ngx_http_lua_ffi_errlog_get_msg(text, level_read, why, length, time_read)
        if bytes == FFI_ERROR then
            return nil, ffi_string(why, length[0])
        end
        if bytes < 0 then
            break
        end
        logs[count + 1] = level_read[0]
        logs[count + 2] = time_read[0]
        logs[count + 3] = ffi_string(text[0], bytes)
        count = count + 3
    end
    logs[count + 1] = nil
    return logs
end

function _M.get_sys_filter_level()
    return (tonumber(C.ngx_http_lua_ffi_errlog_get_sys_filter_level(get_request())))
end

function _M.raw_log(level, message)
    if type(level) ~= "number" then
        error("bad argument #1 to 'raw_log' (must be a number)", 2)
    end
    if type(message) ~= "string" then
        error("bad argument #2 to 'raw_log' (must be a string)", 2)
    end
    if C.ngx_http_lua_ffi_raw_log(get_request(), level, message, #message) == FFI_ERROR then
        error("bad log level", 2)
    end
end

return _M
