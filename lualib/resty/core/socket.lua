-- tcpsock:getoption(), setoption(), getfd().

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local get_request = base.get_request
local get_size_ptr = base.get_size_ptr
local get_string_buf = base.get_string_buf
local errmsg = base.get_errmsg_ptr()
local FFI_OK = base.FFI_OK
local error = error
local tonumber = tonumber
local tostring = tostring
local type = type

ffi.cdef[[
typedef struct ngx_http_lua_socket_tcp_upstream_s ngx_http_lua_socket_tcp_upstream_t;

int ngx_http_lua_ffi_socket_tcp_getoption(ngx_http_lua_socket_tcp_upstream_t *u, int opt,
    int *val, unsigned char *err, size_t *errlen);
int ngx_http_lua_ffi_socket_tcp_setoption(ngx_http_lua_socket_tcp_upstream_t *u, int opt,
    int val, unsigned char *err, size_t *errlen);
int ngx_http_lua_ffi_socket_tcp_getfd(ngx_http_request_t *r,
    ngx_http_lua_socket_tcp_upstream_t *u, char **errmsg);
]]

local handle_index = 1           -- of the C object in the socket's table
local error_bytes = 4096
local value_read = ffi.new("int[1]")

local options = {
    keepalive = 1,
    reuseaddr = 2,
    ["tcp-nodelay"] = 3,
    sndbuf = 4,
    rcvbuf = 5,
    keepintvl = 6,
    keepcnt = 7,
}

local function handle_of(socket)
    return socket[handle_index] or error("socket is never created nor connected")
end

-- The option's number, or nil and why not.
local function option_of(socket, name, call)
    if not socket then
        error("ngx.socket " .. call .. ": expecting the cosocket object, but seen none", 3)
    end
    if name == nil then
        return nil, 'missing the "option" argument'
    end
    local option = options[name]
    if not option then
        return nil, "unsupported option " .. tostring(name)
    end
    return option
end

local function error_buffer()
    local length = get_size_ptr()
    length[0] = error_bytes
    return get_string_buf(error_bytes), length
end

local function getoption(socket, name)
    local option, err = option_of(socket, name, "getoption")
    if not option then
        return nil, err
    end
    local why, length = error_buffer()
    local rc = C.ngx_http_lua_ffi_socket_tcp_getoption(handle_of(socket), option, value_read, why,
                                                       length)
    if rc ~= FFI_OK then
        return nil, ffi_string(why, length[0])
    end
    return tonumber(value_read[0])
end

local function setoption(socket, name, value)
    local option, err = option_of(socket, name, "setoption")
    if not option then
        return nil, err
    end
    if value == nil then
        return nil, 'missing the "value" argument'
    end
    if type(value) == "boolean" then
        value = value and 1 or 0
    end
    local why, length = error_buffer()
    local rc = C.ngx_http_lua_ffi_socket_tcp_setoption(handle_of(socket), option,
                                                       tonumber(value), why, length)
    if rc ~= FFI_OK then
        return nil, ffi_string(why, length[0])
    end
    return true
end

local function getfd(socket)
    if not socket then
        error("ngx.socket getfd: expecting the cosocket object, but seen none")
    end
    local r = get_request()
    if not r then
        error("no request found")
    end
    local fd = C.ngx_http_lua_ffi_socket_tcp_getfd(r, handle_of(socket), errmsg)
    if fd < 0 then
        return nil, ffi_string(errmsg[0])
    end
    return fd
end

local registry = debug.getregistry()
for _, name in ipairs({ "__tcp_cosocket_mt", "__tcp_req_cosocket_mt",
                        "__tcp_raw_req_cosocket_mt" }) do
    local methods = registry[name]
    methods.getoption = getoption
    methods.setoption = setoption
    methods.getfd = getfd
end

return { version = base.version }
