-- What FFI does of a TCP socket: options, the descriptor, TLS.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_gc = ffi.gc
local ffi_string = ffi.string
local get_request = base.get_request
local get_size_ptr = base.get_size_ptr
local get_string_buf = base.get_string_buf
local errmsg = base.get_errmsg_ptr()
local FFI_OK = base.FFI_OK
local FFI_ERROR = base.FFI_ERROR
local FFI_DONE = base.FFI_DONE
local FFI_AGAIN = base.FFI_AGAIN
local FFI_NO_REQ_CTX = base.FFI_NO_REQ_CTX
local yield = coroutine._yield
local error = error
local select = select
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
int ngx_http_lua_ffi_socket_tcp_sslhandshake(ngx_http_request_t *r,
    ngx_http_lua_socket_tcp_upstream_t *u, void *sess, int enable_session_reuse,
    ngx_str_t *server_name, int verify, int ocsp_status_req, void *chain, void *pkey,
    char **errmsg);
int ngx_http_lua_ffi_socket_tcp_get_sslhandshake_result(ngx_http_request_t *r,
    ngx_http_lua_socket_tcp_upstream_t *u, void **sess, char **errmsg,
    int *openssl_error_code);
void ngx_http_lua_ffi_ssl_free_session(void *sess);
int ngx_http_lua_socket_tcp_get_ssl_session(ngx_http_request_t *r,
    ngx_http_lua_socket_tcp_upstream_t *u, void **sess, char **errmsg);
int ngx_http_lua_ffi_socket_tcp_get_ssl_pointer(ngx_http_request_t *r,
    ngx_http_lua_socket_tcp_upstream_t *u, void **pssl, char **errmsg);
int ngx_http_lua_ffi_socket_tcp_get_ssl_ctx(ngx_http_request_t *r,
    ngx_http_lua_socket_tcp_upstream_t *u, void **pctx, char **errmsg);
int ngx_http_lua_ffi_socket_tcp_settrustedstore(ngx_http_request_t *r,
    ngx_http_lua_socket_tcp_upstream_t *u, void *store, char **errmsg);
]]

-- Of a socket's table.
local handle_index = 1
local certificate_index = 6
local key_index = 7
local transparent_index = 9
local store_index = 10

local error_bytes = 4096
local value_read = ffi.new("int[1]")
local pointer = ffi.new("void *[1]")
local server_name_text = ffi.new("ngx_str_t[1]")
local verify_error = ffi.new("int[1]")

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
    return (tonumber(value_read[0]))
end

local function setoption(socket, name, value)
    if name == "ip-transparent" and value ~= nil then
        socket[transparent_index] = value
        return true
    end
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

-- The running request, for a call on a socket.
local function request_for(socket, call)
    if not socket then
        error("ngx.socket " .. call .. ": expecting the cosocket object, but seen none", 3)
    end
    return get_request() or error("no request found", 3)
end

local function getfd(socket)
    local r = request_for(socket, "getfd")
    local fd = C.ngx_http_lua_ffi_socket_tcp_getfd(r, handle_of(socket), errmsg)
    if fd < 0 then
        return nil, ffi_string(errmsg[0])
    end
    return fd
end

-- ---- TLS ----

local function setclientcert(socket, certificate, key)
    if not certificate and not key then
        socket[certificate_index] = nil
        socket[key_index] = nil
        return true
    end
    if not certificate or not key then
        return nil, "client certificate must be supplied with corresponding private key"
    end
    if type(certificate) ~= "cdata" then
        return nil, "bad cert arg: cdata expected, got " .. type(certificate)
    end
    if type(key) ~= "cdata" then
        return nil, "bad pkey arg: cdata expected, got " .. type(key)
    end
    socket[certificate_index] = certificate
    socket[key_index] = key
    return true
end

local function settrustedstore(socket, store)
    if store ~= nil and type(store) ~= "cdata" then
        return nil, "bad store arg: cdata expected, got " .. type(store)
    end
    local r = request_for(socket, "settrustedstore")
    local rc = C.ngx_http_lua_ffi_socket_tcp_settrustedstore(r, handle_of(socket), store, errmsg)
    if rc ~= FFI_OK then
        return nil, ffi_string(errmsg[0])
    end
    socket[store_index] = store              -- keeps it alive until the handshake
    return true
end

-- What a handshake that is over returns.
local function handshake_result(r, handle, keep)
    if not keep then
        pointer[0] = nil
    end
    local rc = C.ngx_http_lua_ffi_socket_tcp_get_sslhandshake_result(r, handle, pointer, errmsg,
                                                                      verify_error)
    if rc ~= FFI_OK then
        local why = ffi_string(errmsg[0])
        return nil, verify_error[0] ~= 0 and verify_error[0] .. ": " .. why or why
    end
    if not keep then
        return true
    end
    local session = pointer[0]
    if session == nil then
        return session
    end
    return ffi_gc(session, C.ngx_http_lua_ffi_ssl_free_session)
end

local function sslhandshake(socket, reused_session, server_name, verify, ask_status, ...)
    local more = select("#", ...)
    if not socket or more > 0 then
        error("ngx.socket sslhandshake: expecting 1 ~ 5 arguments (including the object), " ..
              "but seen " .. (socket and 5 + more or 0))
    end
    local r = get_request() or error("no request found", 2)
    local keep = reused_session ~= false
    local name = server_name_text[0]
    name.data = server_name or nil
    name.len = server_name and #server_name or 0
    local handle = handle_of(socket)
    verify_error[0] = 0
    local rc = C.ngx_http_lua_ffi_socket_tcp_sslhandshake(
        r, handle, type(reused_session) == "cdata" and reused_session or nil, keep,
        server_name_text, verify and 1 or 0, ask_status and 1 or 0, socket[certificate_index],
        socket[key_index], errmsg)
    if rc == FFI_DONE then
        return reused_session
    end
    if rc == FFI_ERROR then
        local why = ffi_string(errmsg[0])
        if C.ngx_http_lua_ffi_socket_tcp_get_sslhandshake_result(r, handle, pointer, errmsg,
                                                                 verify_error) ~= FFI_OK
           and verify_error[0] ~= 0 then
            return nil, verify_error[0] .. ": " .. why
        end
        return nil, why
    end
    if rc == FFI_NO_REQ_CTX then
        error("no request ctx found", 2)
    end
    if rc == FFI_AGAIN then
        yield()
    end
    return handshake_result(r, handle, keep)
end

-- A getter of something of the TLS session: nil and the error, or the pointer.
local function getter(call, get, free)
    return function(socket)
        local r = request_for(socket, call)
        if get(r, handle_of(socket), pointer, errmsg) == FFI_ERROR then
            return nil, ffi_string(errmsg[0])
        end
        return free and ffi_gc(pointer[0], free) or pointer[0]
    end
end

local registry = debug.getregistry()
for _, name in ipairs({ "__tcp_cosocket_mt", "__tcp_req_cosocket_mt",
                        "__tcp_raw_req_cosocket_mt" }) do
    local methods = registry[name]
    methods.getoption = getoption
    methods.setoption = setoption
    methods.getfd = getfd
end

local methods = registry.__tcp_cosocket_mt
methods.setclientcert = setclientcert
methods.settrustedstore = settrustedstore
methods.sslhandshake = sslhandshake
methods.getsslsession = getter("getsslsession", C.ngx_http_lua_socket_tcp_get_ssl_session,
                               C.ngx_http_lua_ffi_ssl_free_session)
methods.getsslpointer = getter("getsslpointer", C.ngx_http_lua_ffi_socket_tcp_get_ssl_pointer)
methods.getsslctx = getter("getsslctx", C.ngx_http_lua_ffi_socket_tcp_get_ssl_ctx)

return { version = base.version }
