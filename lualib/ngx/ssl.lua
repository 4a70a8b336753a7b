-- Certificates and keys, and the client's TLS connection: what it is, and which certificate it is
-- shown. See ssl.md.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_gc = ffi.gc
local ffi_string = ffi.string
local errmsg = base.get_errmsg_ptr()
local get_request = base.get_request
local get_size_ptr = base.get_size_ptr
local get_string_buf = base.get_string_buf
local FFI_OK = base.FFI_OK
local FFI_DECLINED = base.FFI_DECLINED
local error = error
local tonumber = tonumber
local type = type

ffi.cdef[[
typedef struct SSL SSL;
int SSL_session_reused(const SSL *ssl);

void *ngx_http_lua_ffi_parse_pem_cert(const unsigned char *pem, size_t pem_len, char **err);
void *ngx_http_lua_ffi_parse_der_cert(const char *data, size_t len, char **err);
void *ngx_http_lua_ffi_parse_pem_priv_key(const unsigned char *pem, size_t pem_len, char **err);
void *ngx_http_lua_ffi_parse_der_priv_key(const char *data, size_t len, char **err);
void ngx_http_lua_ffi_free_cert(void *cdata);
void ngx_http_lua_ffi_free_priv_key(void *cdata);
int ngx_http_lua_ffi_cert_pem_to_der(const unsigned char *pem, size_t pem_len,
    unsigned char *der, char **err);
int ngx_http_lua_ffi_priv_key_pem_to_der(const unsigned char *pem, size_t pem_len,
    const unsigned char *passphrase, unsigned char *der, char **err);

int ngx_http_lua_ffi_ssl_clear_certs(ngx_http_request_t *r, char **err);
int ngx_http_lua_ffi_ssl_set_der_certificate(ngx_http_request_t *r, const char *data, size_t len,
    char **err);
int ngx_http_lua_ffi_ssl_set_der_private_key(ngx_http_request_t *r, const char *data, size_t len,
    char **err);
int ngx_http_lua_ffi_set_cert(void *r, void *cdata, char **err);
int ngx_http_lua_ffi_set_priv_key(void *r, void *cdata, char **err);
int ngx_http_lua_ffi_ssl_verify_client(void *r, void *client_certs, void *trusted_certs,
    int depth, char **err);

int ngx_http_lua_ffi_ssl_raw_server_addr(ngx_http_request_t *r, char **addr, size_t *addrlen,
    int *addrtype, char **err);
int ngx_http_lua_ffi_ssl_raw_client_addr(ngx_http_request_t *r, char **addr, size_t *addrlen,
    int *addrtype, char **err);
int ngx_http_lua_ffi_ssl_server_port(ngx_http_request_t *r, unsigned short *server_port,
    char **err);
int ngx_http_lua_ffi_ssl_server_name(ngx_http_request_t *r, char **name, size_t *namelen,
    char **err);
int ngx_http_lua_ffi_ssl_get_tls1_version(ngx_http_request_t *r, char **err);
int ngx_http_lua_ffi_ssl_client_random(ngx_http_request_t *r, const unsigned char *out,
    size_t *outlen, char **err);
int ngx_http_lua_ffi_ssl_server_random(ngx_http_request_t *r, const unsigned char *out,
    size_t *outlen, char **err);
int ngx_http_lua_ffi_ssl_session_master_key(ngx_http_request_t *r, const unsigned char *out,
    size_t *outlen, char **err);
int ngx_http_lua_ffi_ssl_export_keying_material(void *r, unsigned char *out, size_t out_size,
    const char *label, size_t llen, const unsigned char *ctx, size_t ctxlen, int use_ctx,
    char **err);
int ngx_http_lua_ffi_ssl_export_keying_material_early(void *r, unsigned char *out,
    size_t out_size, const char *label, size_t llen, const unsigned char *ctx, size_t ctxlen,
    char **err);
int ngx_http_lua_ffi_req_shared_ssl_ciphers(ngx_http_request_t *r, unsigned short *ciphers,
    unsigned short *nciphers, int filter_grease, char **err);
void *ngx_http_lua_ffi_get_req_ssl_pointer(ngx_http_request_t *r, char **err);
void *ngx_http_lua_ffi_get_upstream_ssl_pointer(ngx_http_request_t *r, char **err);
]]

local _M = {
    version = base.version,
    SSL3_VERSION = 0x0300,
    TLS1_VERSION = 0x0301,
    TLS1_1_VERSION = 0x0302,
    TLS1_2_VERSION = 0x0303,
    TLS1_3_VERSION = 0x0304,
}

local function failure()
    return nil, ffi_string(errmsg[0])
end

local function current()
    return get_request() or error("no request found", 3)
end

-- ---- text ----

-- parser(parse, free): a function that makes an object of text, which the collector frees.
local function parser(parse, free)
    return function(text)
        local object = parse(text, #text, errmsg)
        if object == nil then
            return failure()
        end
        return ffi_gc(object, free)
    end
end

_M.parse_pem_cert = parser(C.ngx_http_lua_ffi_parse_pem_cert, C.ngx_http_lua_ffi_free_cert)
_M.parse_der_cert = parser(C.ngx_http_lua_ffi_parse_der_cert, C.ngx_http_lua_ffi_free_cert)
_M.parse_pem_priv_key = parser(C.ngx_http_lua_ffi_parse_pem_priv_key,
                               C.ngx_http_lua_ffi_free_priv_key)
_M.parse_der_priv_key = parser(C.ngx_http_lua_ffi_parse_der_priv_key,
                               C.ngx_http_lua_ffi_free_priv_key)

function _M.cert_pem_to_der(pem)
    local der = get_string_buf(#pem)
    local bytes = C.ngx_http_lua_ffi_cert_pem_to_der(pem, #pem, der, errmsg)
    if bytes > 0 then
        return ffi_string(der, bytes)
    end
    return failure()
end

function _M.priv_key_pem_to_der(pem, passphrase)
    local der = get_string_buf(#pem)
    local bytes = C.ngx_http_lua_ffi_priv_key_pem_to_der(pem, #pem, passphrase, der, errmsg)
    if bytes > 0 then
        return ffi_string(der, bytes)
    end
    return failure()
end

-- ---- the certificate of this connection ----

local function done(code)
    if code == FFI_OK then
        return true
    end
    return failure()
end

function _M.clear_certs()
    return done(C.ngx_http_lua_ffi_ssl_clear_certs(current(), errmsg))
end

function _M.set_der_cert(der)
    return done(C.ngx_http_lua_ffi_ssl_set_der_certificate(current(), der, #der, errmsg))
end

function _M.set_der_priv_key(der)
    return done(C.ngx_http_lua_ffi_ssl_set_der_private_key(current(), der, #der, errmsg))
end

function _M.set_cert(chain)
    return done(C.ngx_http_lua_ffi_set_cert(current(), chain, errmsg))
end

function _M.set_priv_key(key)
    return done(C.ngx_http_lua_ffi_set_priv_key(current(), key, errmsg))
end

function _M.verify_client(client_certs, depth, trusted_certs)
    return done(C.ngx_http_lua_ffi_ssl_verify_client(current(), client_certs, trusted_certs,
                                                     depth or -1, errmsg))
end

-- ---- names and addresses ----

local text_pointer = ffi.new("char *[1]")
local int_pointer = ffi.new("int[1]")
local port_pointer = ffi.new("unsigned short[1]")
local address_types = { [0] = "unix", [1] = "inet", [2] = "inet6" }

local function address(ask)
    return function()
        local size = get_size_ptr()
        if ask(current(), text_pointer, size, int_pointer, errmsg) ~= FFI_OK then
            return nil, nil, ffi_string(errmsg[0])
        end
        return ffi_string(text_pointer[0], size[0]), address_types[int_pointer[0]]
    end
end

_M.raw_server_addr = address(C.ngx_http_lua_ffi_ssl_raw_server_addr)
_M.raw_client_addr = address(C.ngx_http_lua_ffi_ssl_raw_client_addr)

function _M.server_port()
    if C.ngx_http_lua_ffi_ssl_server_port(current(), port_pointer, errmsg) == FFI_OK then
        return port_pointer[0]
    end
    return failure()
end

function _M.server_name()
    local size = get_size_ptr()
    local code = C.ngx_http_lua_ffi_ssl_server_name(current(), text_pointer, size, errmsg)
    if code == FFI_OK then
        return ffi_string(text_pointer[0], size[0])
    end
    if code == FFI_DECLINED then
        return nil
    end
    return failure()
end

-- ---- what was agreed ----

function _M.get_tls1_version()
    local version = tonumber(C.ngx_http_lua_ffi_ssl_get_tls1_version(current(), errmsg))
    if version >= 0 then
        return version
    end
    return failure()
end

local version_names = {
    [_M.SSL3_VERSION] = "SSLv3",
    [_M.TLS1_VERSION] = "TLSv1",
    [_M.TLS1_1_VERSION] = "TLSv1.1",
    [_M.TLS1_2_VERSION] = "TLSv1.2",
    [_M.TLS1_3_VERSION] = "TLSv1.3",
}

function _M.get_tls1_version_str()
    local version, err = _M.get_tls1_version()
    if not version then
        return nil, err
    end
    local name = version_names[version]
    if not name then
        return nil, "unknown version"
    end
    return name
end

local ciphers_max = 255
local ciphers = ffi.new("unsigned short[?]", ciphers_max)
local ciphers_count = ffi.new("unsigned short[1]")

function _M.get_req_shared_ssl_ciphers(filter_grease)
    ciphers_count[0] = ciphers_max
    local filter = filter_grease == false and 0 or 1
    if C.ngx_http_lua_ffi_req_shared_ssl_ciphers(current(), ciphers, ciphers_count, filter,
                                                 errmsg) ~= FFI_OK then
        return failure()
    end
    local found = base.new_tab(ciphers_count[0], 0)
    for i = 1, ciphers_count[0] do
        found[i] = ciphers[i - 1]
    end
    return found
end

-- secret(ask, usual): bytes of the handshake; a length of 0 asks how many there are.
local function secret(ask, usual)
    return function(length)
        length = length or usual
        local out = get_string_buf(length)
        local size = get_size_ptr()
        size[0] = length
        if ask(current(), out, size, errmsg) ~= FFI_OK then
            return failure()
        end
        if length == 0 then
            return tonumber(size[0])
        end
        return ffi_string(out, size[0])
    end
end

_M.get_client_random = secret(C.ngx_http_lua_ffi_ssl_client_random, 32)
_M.get_server_random = secret(C.ngx_http_lua_ffi_ssl_server_random, 32)
_M.get_session_master_key = secret(C.ngx_http_lua_ffi_ssl_session_master_key, 48)

function _M.export_keying_material(length, label, context)
    local out = get_string_buf(length)
    if C.ngx_http_lua_ffi_ssl_export_keying_material(current(), out, length, label, #label,
                                                     context, context and #context or 0,
                                                     context and 1 or 0, errmsg) == FFI_OK then
        return ffi_string(out, length)
    end
    return failure()
end

function _M.export_keying_material_early(length, label, context)
    local out = get_string_buf(length)
    if C.ngx_http_lua_ffi_ssl_export_keying_material_early(current(), out, length, label, #label,
                                                           context, context and #context or 0,
                                                           errmsg) == FFI_OK then
        return ffi_string(out, length)
    end
    return failure()
end

-- ---- OpenSSL's own handles, for code that calls OpenSSL by FFI ----

function _M.get_req_ssl_pointer()
    local ssl = C.ngx_http_lua_ffi_get_req_ssl_pointer(current(), errmsg)
    if ssl == nil then
        return failure()
    end
    return ssl
end

function _M.get_upstream_ssl_pointer()
    local ssl = C.ngx_http_lua_ffi_get_upstream_ssl_pointer(current(), errmsg)
    if ssl == nil then
        return failure()
    end
    return ssl
end

function _M.ssl_session_reused(ssl)
    if not ssl or type(ssl) ~= "cdata" then
        return nil, "bad ssl"
    end
    return C.SSL_session_reused(ssl) == 1
end

return _M
