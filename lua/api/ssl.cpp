// ngx.ssl: what scripts ask the client's TLS connection and change of it, under upstream's names.
// In scripts of the handshake it is that handshake's; in phases of a request it is the connection
// the request came by. Parsing of certificates is in certificates.cpp.
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <climits>
#include <cstring>
#include <memory>

#include "core/socket.h"
#include "core/tls.h"
#include "lua/api/ffi.h"
#include "lua/api/tls_certificates.h"
#include "lua/handshake_by_lua.h"
#include "server/http/connection.h"
#include "server/http/request.h"
#include "server/upstream/balancer.h"

namespace lua {
namespace {

int fail(char** error, const char* why) {
    ERR_clear_error();
    *error = const_cast<char*>(why);
    return ffi_error;
}

SSL* session_of(const LuaTask* task, char** error) {
    SSL* ssl = task ? client_tls(*task) : nullptr;
    if (!ssl) fail(error, "bad request");
    return ssl;
}

enum AddressType : int { type_unix, type_inet, type_inet6 };

// The bytes stay until the next call.
int give_address(const core::Address& from, char** bytes, size_t* size, int* type) {
    static thread_local core::Address kept;
    kept = from;
    switch (kept.family()) {
    case AF_INET6:
        *bytes = reinterpret_cast<char*>(&kept.v6.sin6_addr);
        *size = sizeof kept.v6.sin6_addr;
        *type = type_inet6;
        break;
    case AF_INET:
        *bytes = reinterpret_cast<char*>(&kept.v4.sin_addr);
        *size = sizeof kept.v4.sin_addr;
        *type = type_inet;
        break;
    default: {
        bool named = kept.size > offsetof(sockaddr_un, sun_path);
        *bytes = kept.local.sun_path;
        *size = named ? strnlen(kept.local.sun_path, sizeof kept.local.sun_path) : 0;
        *type = type_unix;
    }
    }
    return ffi_ok;
}

// Certificates that do not stand up are for $ssl_client_verify to tell.
int accept_any(int, X509_STORE_CTX*) { return 1; }

template <auto free>
struct Free {
    template <class T>
    void operator()(T* object) const {
        free(object);
    }
};
void free_names(STACK_OF(X509_NAME)* names) { sk_X509_NAME_pop_free(names, X509_NAME_free); }
using Store = std::unique_ptr<X509_STORE, Free<X509_STORE_free>>;
using Names = std::unique_ptr<STACK_OF(X509_NAME), Free<free_names>>;

// Adds a chain to what is trusted; the subjects also to `names` when given. Null, or what failed.
const char* trust(X509_STORE* store, STACK_OF(X509)* chain, STACK_OF(X509_NAME)* names) {
    for (int i = 0; i < sk_X509_num(chain); ++i) {
        X509* certificate = sk_X509_value(chain, i);
        if (names) {
            X509_NAME* subject = X509_NAME_dup(X509_get_subject_name(certificate));
            if (!subject) return "X509_get_subject_name() failed";
            if (!sk_X509_NAME_push(names, subject)) {
                X509_NAME_free(subject);
                return "sk_X509_NAME_push() failed";
            }
        }
        if (!X509_STORE_add_cert(store, certificate)) return "X509_STORE_add_cert() failed";
    }
    return nullptr;
}

const char* set_trust(SSL* ssl, STACK_OF(X509)* asked, STACK_OF(X509)* trusted) {
    if (!asked && !trusted) return nullptr;
    Store store(X509_STORE_new());
    if (!store) return "X509_STORE_new() failed";
    if (asked) {
        Names names(sk_X509_NAME_new_null());
        if (!names) return "sk_X509_NAME_new_null() failed";
        if (const char* why = trust(store.get(), asked, names.get())) return why;
        SSL_set_client_CA_list(ssl, names.release());
    }
    if (trusted) {
        if (const char* why = trust(store.get(), trusted, nullptr)) return why;
    }
    if (!SSL_set0_verify_cert_store(ssl, store.get())) return "SSL_set0_verify_cert_store() failed";
    store.release();
    return nullptr;
}

// OpenSSL's reasons are for the log, the caller learns which call it was.
int export_failed(const LuaTask& task, char** error, const char* call, const char* why) {
    LOG(task.log(), info, 0, "%s failed%s", call, core::take_tls_errors().c_str());
    return fail(error, why);
}

// RFC 8701: values that mean nothing.
bool is_grease(uint16_t cipher) { return (cipher & 0x0f0f) == 0x0a0a; }

}  // namespace
}  // namespace lua

using lua::ffi_ok;

LUA_FFI int ngx_http_lua_ffi_ssl_get_tls1_version(ngx_http_request_t* r, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? SSL_version(ssl) : lua::ffi_error;
}

// ---- certificates of ours ----

LUA_FFI int ngx_http_lua_ffi_ssl_clear_certs(ngx_http_request_t* r, char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    SSL_certs_clear(ssl);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_set_der_certificate(ngx_http_request_t* r, const char* data,
                                                     size_t len, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_der_certificate(ssl, data, len, err) : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_ssl_set_der_private_key(ngx_http_request_t* r, const char* data,
                                                     size_t len, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_der_private_key(ssl, data, len, err) : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_set_cert(ngx_http_request_t* r, void* chain, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_certificate(ssl, chain, err) : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_set_priv_key(ngx_http_request_t* r, void* key, char** err) {
    SSL* ssl = lua::session_of(r, err);
    return ssl ? lua::use_private_key(ssl, key, err) : lua::ffi_error;
}

// ---- certificates of clients ----

LUA_FFI int ngx_http_lua_ffi_ssl_verify_client(ngx_http_request_t* r, void* client_certs,
                                               void* trusted_certs, int depth, char** err) {
    if (r->phase != lua::LuaPhase::ssl_cert) {
        return lua::fail(err, "API disabled in the current context");
    }
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    SSL_set_verify(ssl, SSL_VERIFY_PEER, lua::accept_any);
    SSL_set_verify_depth(ssl, depth < 0 ? SSL_CTX_get_verify_depth(SSL_get_SSL_CTX(ssl)) : depth);
    const char* why = lua::set_trust(ssl, static_cast<STACK_OF(X509)*>(client_certs),
                                     static_cast<STACK_OF(X509)*>(trusted_certs));
    return why ? lua::fail(err, why) : ffi_ok;
}

// ---- names and addresses ----

LUA_FFI int ngx_http_lua_ffi_ssl_server_name(ngx_http_request_t* r, char** name, size_t* namelen,
                                             char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    const char* found = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (!found) return lua::ffi_declined;
    *name = const_cast<char*>(found);
    *namelen = std::strlen(found);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_raw_server_addr(ngx_http_request_t* r, char** addr,
                                                 size_t* addrlen, int* addrtype, char** err) {
    server::Connection* connection = lua::client_connection(*r);
    if (!connection || !lua::session_of(r, err)) return lua::fail(err, "bad request");
    return lua::give_address(connection->local(), addr, addrlen, addrtype);
}

LUA_FFI int ngx_http_lua_ffi_ssl_server_port(ngx_http_request_t* r, unsigned short* server_port,
                                             char** err) {
    server::Connection* connection = lua::client_connection(*r);
    if (!connection || !lua::session_of(r, err)) return lua::fail(err, "bad request");
    const core::Address& address = connection->local();
    if (address.family() == AF_UNIX) return lua::fail(err, "unix domain has no port");
    *server_port = static_cast<unsigned short>(address.port());
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_raw_client_addr(ngx_http_request_t* r, char** addr,
                                                 size_t* addrlen, int* addrtype, char** err) {
    server::Connection* connection = lua::client_connection(*r);
    if (!connection || !lua::session_of(r, err)) return lua::fail(err, "bad request");
    return lua::give_address(connection->peer, addr, addrlen, addrtype);
}

// ---- what was agreed ----

LUA_FFI int ngx_http_lua_ffi_req_shared_ssl_ciphers(ngx_http_request_t* r, uint16_t* ciphers,
                                                    uint16_t* nciphers, int filter_grease,
                                                    char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    STACK_OF(SSL_CIPHER)* ours = SSL_get1_supported_ciphers(ssl);
    STACK_OF(SSL_CIPHER)* theirs = SSL_get_client_ciphers(ssl);
    int room = *nciphers;
    *nciphers = 0;
    bool fits = sk_SSL_CIPHER_num(ours) <= room;
    for (int i = 0; fits && i < sk_SSL_CIPHER_num(ours); ++i) {
        const SSL_CIPHER* cipher = sk_SSL_CIPHER_value(ours, i);
        uint16_t id = SSL_CIPHER_get_protocol_id(cipher);
        if (filter_grease && lua::is_grease(id)) continue;
        for (int k = 0; k < sk_SSL_CIPHER_num(theirs); ++k) {
            if (SSL_CIPHER_get_protocol_id(sk_SSL_CIPHER_value(theirs, k)) != id) continue;
            ciphers[(*nciphers)++] = id;
            break;
        }
    }
    sk_SSL_CIPHER_free(ours);
    return fits ? ffi_ok : lua::fail(err, "buffer too small");
}

LUA_FFI void* ngx_http_lua_ffi_get_req_ssl_pointer(ngx_http_request_t* r, char** err) {
    return core::TlsSession::pin(lua::session_of(r, err));
}

LUA_FFI void* ngx_http_lua_ffi_get_upstream_ssl_pointer(ngx_http_request_t* r, char** err) {
    const char* why = "bad request";
    ssl_st* found = r && r->request ? server::upstream_tls(*r->request, why) : nullptr;
    if (!found) lua::fail(err, why);
    return core::TlsSession::pin(found);
}

LUA_FFI int ngx_http_lua_ffi_ssl_client_random(ngx_http_request_t* r, unsigned char* out,
                                               size_t* outlen, char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    *outlen = SSL_get_client_random(ssl, out, *outlen);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_server_random(ngx_http_request_t* r, unsigned char* out,
                                               size_t* outlen, char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    *outlen = SSL_get_server_random(ssl, out, *outlen);
    return ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_session_master_key(ngx_http_request_t* r, unsigned char* out,
                                                    size_t* outlen, char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    const SSL_SESSION* session = SSL_get0_session(ssl);
    *outlen = session ? SSL_SESSION_get_master_key(session, out, *outlen) : 0;
    return ffi_ok;
}

// ---- keying material (RFC 5705, RFC 8446 7.5) ----

LUA_FFI int ngx_http_lua_ffi_ssl_export_keying_material(
    ngx_http_request_t* r, unsigned char* out, size_t out_size, const char* label, size_t llen,
    const unsigned char* ctx, size_t ctxlen, int use_ctx, char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    ERR_clear_error();
    if (SSL_export_keying_material(ssl, out, out_size, label, llen, ctx, ctxlen, use_ctx) == 1) {
        return ffi_ok;
    }
    return lua::export_failed(*r, err, "SSL_export_keying_material()",
                              "SSL_export_keying_material() failed");
}

LUA_FFI int ngx_http_lua_ffi_ssl_export_keying_material_early(
    ngx_http_request_t* r, unsigned char* out, size_t out_size, const char* label, size_t llen,
    const unsigned char* ctx, size_t ctxlen, char** err) {
    SSL* ssl = lua::session_of(r, err);
    if (!ssl) return lua::ffi_error;
    ERR_clear_error();
    if (SSL_export_keying_material_early(ssl, out, out_size, label, llen, ctx, ctxlen) == 1) {
        return ffi_ok;
    }
    return lua::export_failed(*r, err, "SSL_export_keying_material_early()",
                              "SSL_export_keying_material_early() failed");
}
