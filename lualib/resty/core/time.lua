-- ngx.now, ngx.time, ngx.today and the other clocks and dates.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_new = ffi.new
local ffi_string = ffi.string
local get_string_buf = base.get_string_buf
local type = type
local error = error
local tonumber = tonumber
local ngx = ngx

ffi.cdef[[
double ngx_http_lua_ffi_now(void);
long ngx_http_lua_ffi_time(void);
long ngx_http_lua_ffi_monotonic_msec(void);
void ngx_http_lua_ffi_today(unsigned char *buf);
void ngx_http_lua_ffi_localtime(unsigned char *buf);
void ngx_http_lua_ffi_utctime(unsigned char *buf);
void ngx_http_lua_ffi_update_time(void);
int ngx_http_lua_ffi_cookie_time(unsigned char *buf, long t);
void ngx_http_lua_ffi_http_time(unsigned char *buf, long t);
void ngx_http_lua_ffi_parse_http_time(const unsigned char *str, size_t len, long *time);
]]

local date_bytes, date_time_bytes, http_date_bytes, cookie_date_bytes = 10, 19, 29, 32
local parsed = ffi_new("long[1]")

function ngx.now()
    return (tonumber(C.ngx_http_lua_ffi_now()))
end

function ngx.time()
    return (tonumber(C.ngx_http_lua_ffi_time()))
end

function ngx.update_time()
    C.ngx_http_lua_ffi_update_time()
end

function ngx.today()
    local buffer = get_string_buf(date_bytes)
    C.ngx_http_lua_ffi_today(buffer)
    return (ffi_string(buffer, date_bytes))
end

function ngx.localtime()
    local buffer = get_string_buf(date_time_bytes)
    C.ngx_http_lua_ffi_localtime(buffer)
    return (ffi_string(buffer, date_time_bytes))
end

function ngx.utctime()
    local buffer = get_string_buf(date_time_bytes)
    C.ngx_http_lua_ffi_utctime(buffer)
    return (ffi_string(buffer, date_time_bytes))
end

local function check_seconds(seconds)
    if type(seconds) ~= "number" then
        error("number argument only", 3)
    end
    return seconds
end

function ngx.cookie_time(seconds)
    seconds = check_seconds(seconds)
    local buffer = get_string_buf(cookie_date_bytes)
    local length = C.ngx_http_lua_ffi_cookie_time(buffer, seconds)
    return (ffi_string(buffer, length))
end

function ngx.http_time(seconds)
    seconds = check_seconds(seconds)
    local buffer = get_string_buf(cookie_date_bytes)
    C.ngx_http_lua_ffi_http_time(buffer, seconds)
    return (ffi_string(buffer, http_date_bytes))
end

function ngx.parse_http_time(text)
    if type(text) ~= "string" then
        error("string argument only", 2)
    end
    C.ngx_http_lua_ffi_parse_http_time(text, #text, parsed)
    local seconds = tonumber(parsed[0])
    if seconds == base.FFI_ERROR then
        return nil
    end
    return seconds
end

local function monotonic_msec()
    return (tonumber(C.ngx_http_lua_ffi_monotonic_msec()))
end

return {
    version = base.version,
    monotonic_msec = monotonic_msec,
    monotonic_time = function()
        return monotonic_msec() / 1000
    end,
}
