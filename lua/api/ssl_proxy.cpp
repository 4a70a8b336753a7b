// ngx.ssl.proxysslcert, ngx.ssl.proxysslverify and ngx.proxyssl: what scripts do in a TLS handshake
// with an upstream server, under upstream's names.
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "lua/api/ffi.h"
#include "lua/api/tls_certificates.h"
#include "server/http/request.h"
#include "server/upstream/balancer.h"
#include "server/upstream/tls_scripts.h"

namespace lua {
namespace {

int fail(char** error, const char* why) {
    *error = const_cast<char*>(why);
    return ffi_error;
}

SSL* session_of(const LuaTask* task, char** error) {
    const char* why = "bad request";
    ssl_st* found = task->request ? server::upstream_tls(*task->request, why) : nullptr;
    if (!found) fail(error, why);
    return found;
}

server::UpstreamHandshake* verification_of(const LuaTask* task, char** error) {
    if (!session_of(task, error)) return nullptr;
    auto* handshake = server::UpstreamHandshake::of(*task->request);
    if (!handshake || task->phase != LuaPhase::proxy_ssl_verify) {
        fail(error, "bad lua context");
        return nullptr;
    }
    return handshake;
}

}  // namespace
}  // namespace lua

using lua::ffi_ok;

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_get_tls1_version(ngx_http_request_t* r, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? SSL_version(ssl) : lua::ffi_error;
}

// ---- our certificate ----

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_clear_certs(ngx_http_request_t* r, char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    SSL_certs_clear(ssl);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_set_der_certificate(ngx_http_request_t* r, const char* data,
                                                           size_t len, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_der_certificate(ssl, data, len, err) : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_set_der_private_key(ngx_http_request_t* r, const char* data,
                                                           size_t len, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_der_private_key(ssl, data, len, err) : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_set_cert(ngx_http_request_t* r, void* chain, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_certificate(ssl, chain, err) : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_set_priv_key(ngx_http_request_t* r, void* key, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_private_key(ssl, key, err) : lua::ffi_error;
}

// ---- the server's certificate ----

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_set_verify_result(ngx_http_request_t* r, int verify_result,
                                                         char** err) {
    server::UpstreamHandshake* handshake = lua::verification_of(r, err);
    if (!handshake) return lua::ffi_error;
    handshake->verify_result = verify_result;
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_proxy_ssl_get_verify_result(ngx_http_request_t* r, char** err) {
    server::UpstreamHandshake* handshake = lua::verification_of(r, err);
    return handshake ? handshake->verify_result : lua::ffi_error;
}

// A reference of the caller's own.
LUA_FFI void* ngx_http_lua_ffi_proxy_ssl_get_verify_cert(ngx_http_request_t* r, char** err) {
    server::UpstreamHandshake* handshake = lua::verification_of(r, err);
    X509* certificate = handshake ? handshake->certificate() : nullptr;
    if (handshake && !certificate) lua::fail(err, "get verify result failed");
    if (certificate) X509_up_ref(certificate);
    return certificate;
}

LUA_FFI void ngx_http_lua_ffi_proxy_ssl_free_verify_cert(void* cdata) {
    X509_free(static_cast<X509*>(cdata));
}
