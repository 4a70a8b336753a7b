// tcpsock:sslhandshake() and what else lualib/resty/core/socket.lua asks of a socket's TLS, under
// upstream's names.
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <string>
#include <utility>

#include "core/tls.h"
#include "lua/api/ffi.h"
#include "lua/api/socket_tcp.h"
#include "lua/tls_settings.h"

namespace lua {
namespace {

// ---- the outcome ----

bool certificate_names(SSL* ssl, const std::string& host) {
    X509* certificate = SSL_get1_peer_certificate(ssl);
    if (!certificate) return false;
    bool named = X509_check_host(certificate, host.data(), host.size(), 0, nullptr) == 1 ||
                 X509_check_ip_asc(certificate, host.c_str(), 0) == 1;
    X509_free(certificate);
    return named;
}

// The peer's certificate, when the script wants it verified. False: the reason is in the result.
bool verified(TcpSocket& socket) {
    SSL* ssl = socket.connection->stream.tls()->native();
    bool logs = socket.conf->socket_log_errors;
    if (long error = SSL_get_verify_result(ssl); error != X509_V_OK) {
        socket.handshake.verify_error = error;
        socket.handshake.error = X509_verify_cert_error_string(error);
        if (logs) {
            LOG(socket.log(), error, 0, "lua ssl certificate verify error: (%ld: %s)", error,
                socket.handshake.error);
        }
        return false;
    }
    if (socket.ssl_name.empty() || certificate_names(ssl, socket.ssl_name)) return true;
    socket.handshake.error = "certificate host mismatch";
    if (logs) {
        LOG(socket.log(), error, 0, "lua ssl certificate does not match host \"%s\"",
            socket.ssl_name.c_str());
    }
    return false;
}

void keep_session(TcpSocket& socket) {
    if (!socket.ssl_session_reuse) return;
    if (!socket.handshake.fetched) SSL_SESSION_free(socket.handshake.session);
    socket.handshake.session = SSL_get1_session(socket.connection->stream.tls()->native());
    socket.handshake.fetched = false;
}

void log_failure(const TcpSocket& socket, const core::IoResult& result) {
    const std::string& why = socket.connection->stream.tls()->error_text();
    if (!why.empty()) {
        LOG(socket.log(), error, 0, "SSL_do_handshake() failed%s", why.c_str());
    } else if (result.status == core::Io::closed) {
        LOG(socket.log(), error, 0, "peer closed connection in SSL handshake");
    } else {
        LOG(socket.log(), error, result.error, "SSL_do_handshake() failed");
    }
}

enum class Step : uint8_t { done, waits, failed };

// Goes on with the handshake. A failure's text is in socket.handshake.
Step advance(TcpSocket& socket) {
    core::IoResult result = socket.connection->stream.tls()->handshake();
    if (result.status == core::Io::again) return Step::waits;
    if (result.status != core::Io::done) {
        log_failure(socket, result);
        socket.handshake.error = "handshake failed";
        return Step::failed;
    }
    if (socket.ssl_verify && !verified(socket)) return Step::failed;
    keep_session(socket);
    return Step::done;
}

class Handshake final : public SocketOp {
  public:
    Handshake(LuaThread& thread, TcpSocket& socket)
        : SocketOp(thread, socket, &TcpSocket::connecting) {
        set_timer(socket.connect_timeout_ms);
    }
    void ready() override {
        if (over_) return;
        Step step = advance(socket());
        if (step == Step::waits) return;
        end(step == Step::failed);
    }
    void timed_out() override {
        socket().handshake.error = "timeout";
        end(true);
    }
    // The caller asks for the result afterwards.
    int push_results(lua_State*) override {
        if (abandoned()) return 0;
        leave();
        if (failed_) socket().close();
        return 0;
    }
    const char* name() const override { return "sslhandshake"; }

  private:
    void end(bool failed) {
        over_ = true;
        failed_ = failed;
        finish();
    }
    bool over_ = false;
    bool failed_ = false;
};

// ---- what the caller wants ----

struct Wish {
    SSL_SESSION* session;
    bool keep_session;
    core::Slice server_name;
    bool verify, ask_status;
    STACK_OF(X509)* chain;
    EVP_PKEY* key;
};

const char* use_client_certificate(SSL* ssl, const Wish& wish) {
    int count = sk_X509_num(wish.chain);
    if (count < 1) return "invalid client certificate chain";
    if (SSL_use_certificate(ssl, sk_X509_value(wish.chain, 0)) == 0) {
        return "ssl set client certificate failed";
    }
    for (int i = 1; i < count; ++i) {
        if (SSL_add1_chain_cert(ssl, sk_X509_value(wish.chain, i)) == 0) {
            return "ssl set client intermediate certificate failed";
        }
    }
    if (SSL_use_PrivateKey(ssl, wish.key) == 0) return "ssl set client private key failed";
    return nullptr;
}

const char* prepare_session(TcpSocket& socket, SSL* ssl, const Wish& wish) {
    if (wish.session && SSL_set_session(ssl, wish.session) == 0) return "ssl set session failed";
    if (wish.chain) {
        if (const char* why = use_client_certificate(ssl, wish)) return why;
    }
    if (wish.server_name.data()) {
        LOG(socket.log(), debug, 0, "lua ssl server name: \"%.*s\"",
            int(wish.server_name.size()), wish.server_name.data());
    }
    if (wish.server_name.data() &&
        SSL_set_tlsext_host_name(ssl, std::string(wish.server_name).c_str()) == 0) {
        return "SSL_set_tlsext_host_name failed";
    }
    if (socket.ssl_trusted_store) {
        if (SSL_set1_verify_cert_store(ssl, socket.ssl_trusted_store) == 0) {
            return "SSL_set1_verify_cert_store() failed";
        }
        socket.ssl_trusted_store = nullptr;
    }
    if (wish.ask_status) SSL_set_tlsext_status_type(ssl, TLSEXT_STATUSTYPE_ocsp);
    return nullptr;
}

// Why a handshake cannot be begun; null when it can.
const char* unready(const LuaTask& task, const TcpSocket* socket) {
    if (!socket || !socket->connection || socket->read_closed || socket->write_closed) {
        return "closed";
    }
    if (!socket->may_use(task)) return "bad request";
    if (const char* busy =
            busy_text(*socket, busy_connecting | busy_reading | busy_writing)) {
        return busy;
    }
    return socket->downstream() ? "not supported for downstream sockets" : nullptr;
}

// Makes the session, ready for the first handshake(); an error's text, or null.
const char* begin(TcpSocket& socket, const Wish& wish) {
    auto context = tls_context_of(*socket.conf);
    core::TlsSessionPtr session =
        context ? core::TlsSession::create(std::move(context), socket.fd()) : nullptr;
    if (!session) return "failed to create ssl connection";
    const char* why = prepare_session(socket, session->native(), wish);
    ERR_clear_error();
    if (why) return why;
    socket.ssl_session_reuse = wish.session || wish.keep_session;
    socket.ssl_verify = wish.verify;
    socket.ssl_name = wish.server_name;
    socket.connection->stream.set_tls(std::move(session));
    return nullptr;
}

int shake_hands(LuaTask& task, TcpSocket& socket, const Wish& wish, char** error) {
    socket.forget_handshake();
    core::TlsSession* tls = socket.connection->stream.tls();
    if (tls && tls->established()) {
        if (wish.session) return ffi_done;
        socket.ssl_session_reuse = wish.keep_session;
        keep_session(socket);
        return ffi_ok;
    }
    if (const char* why = begin(socket, wish)) {
        *error = const_cast<char*>(why);
        return ffi_error;
    }
    Step step = advance(socket);
    if (step == Step::done) return ffi_ok;
    if (step == Step::failed) {
        *error = const_cast<char*>(socket.handshake.error);
        socket.close();
        return ffi_error;
    }
    LuaThread& thread = *task.running;
    thread.pending = new (thread.op_room(sizeof(Handshake))) Handshake(thread, socket);
    return ffi_again;
}

int fail(const char* why, char** error) {
    *error = const_cast<char*>(why);
    return ffi_error;
}

// Its session, when it is open and speaks TLS; null after the error was told.
core::TlsSession* tls_of(const TcpSocket* socket, const char* none, char** error) {
    if (!socket || !socket->connection || (socket->read_closed && socket->write_closed)) {
        fail("closed", error);
        return nullptr;
    }
    core::TlsSession* tls = socket->connection->stream.tls();
    if (!tls) fail(none, error);
    return tls;
}

}  // namespace
}  // namespace lua

using ngx_http_lua_socket_tcp_upstream_t = lua::TcpSocket;

LUA_FFI int ngx_http_lua_ffi_socket_tcp_sslhandshake(
    ngx_http_request_t* r, ngx_http_lua_socket_tcp_upstream_t* u, void* sess,
    int enable_session_reuse, ngx_str_t* server_name, int verify, int ocsp_status_req,
    void* chain, void* pkey, char** errmsg) {
    if (const char* why = lua::unready(*r, u)) {
        if (u && !u->connection) u->forget_handshake();
        return lua::fail(why, errmsg);
    }
    if (!r->running) return lua::ffi_no_req_ctx;
    lua::Wish wish{};
    wish.session = static_cast<SSL_SESSION*>(sess);
    wish.keep_session = enable_session_reuse;
    if (server_name && server_name->data) {
        wish.server_name = lua::slice(server_name->data, server_name->len);
    }
    wish.verify = verify;
    wish.ask_status = ocsp_status_req;
    wish.chain = static_cast<STACK_OF(X509)*>(chain);
    wish.key = static_cast<EVP_PKEY*>(pkey);
    return lua::shake_hands(*r, *u, wish, errmsg);
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_get_sslhandshake_result(
    ngx_http_request_t*, ngx_http_lua_socket_tcp_upstream_t* u, void** sess, char** errmsg,
    int* openssl_error_code) {
    if (u->handshake.error) {
        *openssl_error_code = int(u->handshake.verify_error);
        return lua::fail(u->handshake.error, errmsg);
    }
    if (!u->connection) return lua::fail("closed", errmsg);
    *sess = u->handshake.session;
    u->handshake.fetched = true;
    return lua::ffi_ok;
}

LUA_FFI void ngx_http_lua_ffi_ssl_free_session(void* sess) {
    SSL_SESSION_free(static_cast<SSL_SESSION*>(sess));
}

LUA_FFI int ngx_http_lua_socket_tcp_get_ssl_session(ngx_http_request_t*,
                                                    ngx_http_lua_socket_tcp_upstream_t* u,
                                                    void** sess, char** errmsg) {
    *sess = nullptr;
    core::TlsSession* tls = lua::tls_of(u, "no session", errmsg);
    if (!tls) return lua::ffi_error;
    SSL_SESSION* session = SSL_get1_session(tls->native());
    if (!session) return lua::fail("no session", errmsg);
    if (!SSL_SESSION_is_resumable(session)) {
        SSL_SESSION_free(session);
        return lua::fail("not resumable", errmsg);
    }
    *sess = session;
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_get_ssl_pointer(ngx_http_request_t*,
                                                        ngx_http_lua_socket_tcp_upstream_t* u,
                                                        void** pssl, char** errmsg) {
    core::TlsSession* tls = lua::tls_of(u, "no ssl connection", errmsg);
    *pssl = tls ? tls->pinned() : nullptr;
    return tls ? lua::ffi_ok : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_get_ssl_ctx(ngx_http_request_t*,
                                                    ngx_http_lua_socket_tcp_upstream_t* u,
                                                    void** pctx, char** errmsg) {
    core::TlsSession* tls = lua::tls_of(u, "no ssl context", errmsg);
    *pctx = tls ? SSL_get_SSL_CTX(tls->native()) : nullptr;
    return tls ? lua::ffi_ok : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_settrustedstore(ngx_http_request_t* r,
                                                        ngx_http_lua_socket_tcp_upstream_t* u,
                                                        void* store, char** errmsg) {
    if (!u || !u->connection || u->read_closed || u->write_closed) {
        return lua::fail("closed", errmsg);
    }
    if (!u->may_use(*r)) return lua::fail("bad request", errmsg);
    core::TlsSession* tls = u->connection->stream.tls();
    if (tls && tls->established()) {
        return lua::fail("ssl handshake already done; trusted store cannot be changed on an "
                         "established TLS connection", errmsg);
    }
    u->ssl_trusted_store = static_cast<X509_STORE*>(store);
    return lua::ffi_ok;
}
