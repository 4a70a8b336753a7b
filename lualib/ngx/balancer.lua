-- The calls of balancer_by_lua: where a try goes, how many there are, how it is done.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local errmsg = base.get_errmsg_ptr()
local FFI_OK = base.FFI_OK
local FFI_ERROR = base.FFI_ERROR
local error = error
local tonumber = tonumber
local type = type

ffi.cdef[[
int ngx_http_lua_ffi_balancer_set_current_peer(ngx_http_request_t *r, const unsigned char *addr,
    size_t addr_len, int port, const unsigned char *host, ssize_t host_len, char **err);
int ngx_http_lua_ffi_balancer_enable_keepalive(ngx_http_request_t *r, unsigned long timeout,
    unsigned int max_requests, char **err);
int ngx_http_lua_ffi_balancer_set_more_tries(ngx_http_request_t *r, int count, char **err);
int ngx_http_lua_ffi_balancer_get_last_failure(ngx_http_request_t *r, int *status, char **err);
int ngx_http_lua_ffi_balancer_set_timeouts(ngx_http_request_t *r, long connect_timeout,
    long send_timeout, long read_timeout, char **err);
int ngx_http_lua_ffi_balancer_recreate_request(ngx_http_request_t *r, char **err);
int ngx_http_lua_ffi_balancer_set_upstream_tls(ngx_http_request_t *r, int on, char **err);
int ngx_http_lua_ffi_balancer_bind_to_local_addr(ngx_http_request_t *r, const unsigned char *addr,
    size_t addr_len, unsigned char *errbuf, size_t *errbuf_size);
]]

local _M = { version = base.version }

local int_out = ffi.new("int[1]")
local error_bytes = 1024
local state_names = { [1] = "keepalive", [2] = "next", [4] = "failed" }

local function request()
    return get_request() or error("no request found", 3)
end

local function answer(rc)
    if rc == FFI_OK then
        return true
    end
    return nil, ffi_string(errmsg[0])
end

function _M.set_current_peer(addr, port, host)
    local r = request()
    if type(port) ~= "number" then
        port = port and tonumber(port) or 0
    end
    if host ~= nil and type(host) ~= "string" then
        error("bad argument #3 to 'set_current_peer' (string expected, got " .. type(host) .. ")")
    end
    return answer(C.ngx_http_lua_ffi_balancer_set_current_peer(r, addr, #addr, port, host,
                                                               host and #host or 0, errmsg))
end

local function check_count(value, index)
    if type(value) ~= "number" then
        error("bad argument #" .. index .. " to 'enable_keepalive' (number expected, got "
              .. type(value) .. ")", 3)
    end
    if value < 0 then
        error("bad argument #" .. index .. " to 'enable_keepalive' (expected >= 0)", 3)
    end
    return value
end

function _M.enable_keepalive(idle_timeout, max_requests)
    local r = request()
    local timeout_ms = idle_timeout and check_count(idle_timeout, 1) * 1000 or 60000
    local requests = max_requests and check_count(max_requests, 2) or 100
    return answer(C.ngx_http_lua_ffi_balancer_enable_keepalive(r, timeout_ms, requests, errmsg))
end

function _M.set_more_tries(count)
    local rc = C.ngx_http_lua_ffi_balancer_set_more_tries(request(), count, errmsg)
    if rc ~= FFI_OK then
        return nil, ffi_string(errmsg[0])
    end
    if errmsg[0] ~= nil then
        return true, ffi_string(errmsg[0])       -- done, but for a limit
    end
    return true
end

function _M.get_last_failure()
    local state = C.ngx_http_lua_ffi_balancer_get_last_failure(request(), int_out, errmsg)
    if state == 0 then
        return nil
    end
    if state == FFI_ERROR then
        return nil, nil, ffi_string(errmsg[0])
    end
    return state_names[state] or "unknown", int_out[0]
end

local function timeout_ms(value, name)
    if not value then
        return 0
    end
    if type(value) ~= "number" or value <= 0 then
        error("bad " .. name .. " timeout", 3)
    end
    return value * 1000
end

function _M.set_timeouts(connect_timeout, send_timeout, read_timeout)
    local r = request()
    local connect_ms = timeout_ms(connect_timeout, "connect")
    local send_ms = timeout_ms(send_timeout, "send")
    local read_ms = timeout_ms(read_timeout, "read")
    local rc = C.ngx_http_lua_ffi_balancer_set_timeouts(r, connect_ms, send_ms, read_ms, errmsg)
    if rc == FFI_OK then
        return true
    end
    return false, ffi_string(errmsg[0])
end

function _M.recreate_request()
    local rc = C.ngx_http_lua_ffi_balancer_recreate_request(request(), errmsg)
    if rc == FFI_OK then
        return true
    end
    return nil, errmsg[0] ~= nil and ffi_string(errmsg[0])
                or "failed to recreate the upstream request"
end

function _M.set_upstream_tls(on)
    local wanted = (on == 0 or on == false) and 0 or 1
    return answer(C.ngx_http_lua_ffi_balancer_set_upstream_tls(request(), wanted, errmsg))
end

function _M.bind_to_local_addr(addr)
    local r = request()
    if type(addr) ~= "string" then
        error("bad argument #1 to 'bind_to_local_addr' (string expected, got " .. type(addr) .. ")")
    end
    local text, size = get_string_buf(error_bytes), get_size_ptr()
    size[0] = error_bytes
    local rc = C.ngx_http_lua_ffi_balancer_bind_to_local_addr(r, addr, #addr, text, size)
    if rc == FFI_OK then
        return true
    end
    return nil, ffi_string(text, size[0])
end

return _M
