// TLS configuration: certificates, trust, protocols, and the callbacks OpenSSL makes during a
// handshake. Sessions are in core/tls_session.cpp.
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <atomic>

#include "core/pem.h"
#include "core/text.h"
#include "core/tls.h"

namespace core {

namespace {

Error failed(const char* call) { return {std::string(call) + " failed" + take_tls_errors()}; }

const char* load_chain(SSL_CTX* context, BIO* from) {
    std::vector<CertificatePtr> chain;
    if (const char* call = read_pem_chain(from, chain)) return call;
    if (!SSL_CTX_use_certificate(context, chain[0].get())) return "SSL_CTX_use_certificate()";
    SSL_CTX_clear_chain_certs(context);
    for (size_t i = 1; i < chain.size(); ++i) {
        if (!SSL_CTX_add0_chain_cert(context, chain[i].get())) return "SSL_CTX_add0_chain_cert()";
        static_cast<void>(chain[i].release());
    }
    return nullptr;
}

const char* load_key(SSL_CTX* context, BIO* from, const std::vector<std::string>& passwords) {
    EVP_PKEY* key = nullptr;
    if (const char* call = read_pem_key(from, passwords, key)) return call;
    int used = SSL_CTX_use_PrivateKey(context, key);
    EVP_PKEY_free(key);
    return used ? nullptr : "SSL_CTX_use_PrivateKey()";
}

int name_slot() {
    static const int slot = X509_get_ex_new_index(
        0, nullptr, nullptr, nullptr, [](void*, void* name, CRYPTO_EX_DATA*, int, long, void*) {
            delete static_cast<std::string*>(name);
        });
    return slot;
}

void note_name(X509* certificate, const std::string& name) {
    if (X509_get_ex_data(certificate, name_slot())) return;
    X509_set_ex_data(certificate, name_slot(), new std::string(name));
}

// Sessions of one context are never resumed in another: a ticket is good for its own server only.
void bind_sessions(SSL_CTX* context) {
    static std::atomic<uint64_t> serial{0};
    uint64_t id = ++serial;
    SSL_CTX_set_session_id_context(context, reinterpret_cast<const uint8_t*>(&id), sizeof id);
}

}  // namespace

std::string certificate_name(const X509* certificate) {
    auto* name = static_cast<const std::string*>(X509_get_ex_data(certificate, name_slot()));
    return name ? *name : std::string();
}

std::string take_tls_errors() {
    std::string text;
    const char* data = nullptr;
    int flags = 0;
    while (unsigned long code = ERR_get_error_all(nullptr, nullptr, nullptr, &data, &flags)) {
        char reason[256];
        ERR_error_string_n(code, reason, sizeof reason);
        text += text.empty() ? " (SSL: " : " ";
        text += reason;
        if (data && *data && (flags & ERR_TXT_STRING)) text += std::string(":") + data;
    }
    if (!text.empty()) text += ")";
    return text;
}

// OpenSSL's callbacks, with access to both classes.
struct TlsCallbacks {
    static TlsContext* context_of(SSL* ssl) {
        return static_cast<TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
    }

    static int select_alpn(SSL* ssl, const unsigned char** out, unsigned char* out_size,
                           const unsigned char* offered, unsigned offered_size, void*) {
        const std::string& ours = context_of(ssl)->alpn_wire_;
        if (ours.empty()) return SSL_TLSEXT_ERR_NOACK;
        unsigned char* chosen = nullptr;
        int found = SSL_select_next_proto(&chosen, out_size,
                                          reinterpret_cast<const unsigned char*>(ours.data()),
                                          unsigned(ours.size()), offered, offered_size);
        if (found != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
        *out = chosen;
        return SSL_TLSEXT_ERR_OK;
    }

    static int choose(SSL* ssl, int*, void* argument) {
        auto* context = static_cast<TlsContext*>(argument);
        const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
        if (!context->choose_) return name ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
        if (TlsContext* other = context->choose_(name ? name : "")) {
            SSL_set_SSL_CTX(ssl, other->context_);
        }
        return name ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
    }

    static int keep(SSL* ssl, SSL_SESSION* resumable) {
        auto* session = static_cast<TlsSession*>(SSL_get_app_data(ssl));
        TlsContext* context = session ? session->context_.get() : nullptr;
        if (!context || !context->keep_) return 0;
        context->keep_(*session, resumable);
        return 1;   // the reference is the receiver's
    }
};

Result<std::shared_ptr<TlsContext>> TlsContext::create(Role role) {
    std::shared_ptr<TlsContext> made(new TlsContext(role));
    SSL_CTX* context = SSL_CTX_new(role == Role::server ? TLS_server_method()
                                                        : TLS_client_method());
    if (!context) return failed("SSL_CTX_new()");
    made->context_ = context;
    SSL_CTX_set_app_data(context, made.get());
    // A peer that hangs up without close_notify is common and, where length framing ends a message,
    // harmless.
    SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_SINGLE_DH_USE);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
    SSL_CTX_set_read_ahead(context, 1);
    if (role == Role::server) {
        bind_sessions(context);
        SSL_CTX_set_tlsext_servername_callback(context, TlsCallbacks::choose);
        SSL_CTX_set_tlsext_servername_arg(context, made.get());
        SSL_CTX_set_alpn_select_cb(context, TlsCallbacks::select_alpn, nullptr);
    }
    return made;
}

TlsContext::~TlsContext() {
    if (!context_) return;
    SSL_CTX_set_app_data(context_, nullptr);
    SSL_CTX_free(context_);
}

Result<void> TlsContext::use_certificate_files(const std::string& chain, const std::string& key,
                                               const std::vector<std::string>& passwords) {
    auto bad = [](const char* what, const std::string& path, const char* call) {
        return Error{format("cannot load %s \"%s\": %s failed", what, path.c_str(), call) +
                     take_tls_errors()};
    };
    ERR_clear_error();
    PemSource from = open_pem_file(chain);
    if (!from) return bad("certificate", chain, "BIO_new_file()");
    if (const char* call = load_chain(context_, from.get())) return bad("certificate", chain, call);
    note_name(SSL_CTX_get0_certificate(context_), chain);
    from = open_pem_file(key);
    if (!from) return bad("certificate key", key, "BIO_new_file()");
    if (const char* call = load_key(context_, from.get(), passwords)) {
        return bad("certificate key", key, call);
    }
    return {};
}

Result<void> TlsContext::use_certificate_pem(Slice chain, Slice key) {
    ERR_clear_error();
    PemSource from = open_pem_text(chain);
    if (!from) return failed("BIO_new_mem_buf()");
    if (const char* call = load_chain(context_, from.get())) return failed(call);
    from = open_pem_text(key);
    if (!from) return failed("BIO_new_mem_buf()");
    if (const char* call = load_key(context_, from.get(), {})) return failed(call);
    return {};
}

Result<void> TlsContext::trust_file(const std::string& path) {
    ERR_clear_error();
    if (SSL_CTX_load_verify_locations(context_, path.c_str(), nullptr) == 1) return {};
    return Error{format("SSL_CTX_load_verify_locations(\"%s\") failed", path.c_str()) +
                 take_tls_errors()};
}

Result<void> TlsContext::trust_system() {
    ERR_clear_error();
    if (SSL_CTX_set_default_verify_paths(context_) == 1) return {};
    return failed("SSL_CTX_set_default_verify_paths()");
}

void TlsContext::verify_peer(bool on, int depth) {
    int mode = SSL_VERIFY_PEER | (role_ == Role::server ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0);
    SSL_CTX_set_verify(context_, on ? mode : SSL_VERIFY_NONE, nullptr);
    SSL_CTX_set_verify_depth(context_, depth);
}

Result<void> TlsContext::set_ciphers(const std::string& list) {
    ERR_clear_error();
    if (SSL_CTX_set_cipher_list(context_, list.c_str()) == 1) return {};
    return Error{format("SSL_CTX_set_cipher_list(\"%s\") failed", list.c_str()) +
                 take_tls_errors()};
}

void TlsContext::set_protocols(int least, int most) {
    SSL_CTX_set_min_proto_version(context_, least);
    SSL_CTX_set_max_proto_version(context_, most);
}

void TlsContext::set_alpn(std::vector<std::string> protocols) {
    alpn_wire_.clear();
    for (const std::string& name : protocols) {
        if (name.empty() || name.size() > 255) continue;   // RFC 7301 3.1: one byte of length
        alpn_wire_ += char(name.size());
        alpn_wire_ += name;
    }
    alpn_names_ = std::move(protocols);
    if (role_ == Role::client) {
        SSL_CTX_set_alpn_protos(context_, reinterpret_cast<const uint8_t*>(alpn_wire_.data()),
                                unsigned(alpn_wire_.size()));
    }
}

void TlsContext::on_server_name(ChooseContext choose) { choose_ = std::move(choose); }

void TlsContext::on_new_session(NewSession keep) {
    keep_ = std::move(keep);
    SSL_CTX_set_session_cache_mode(context_,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context_, TlsCallbacks::keep);
}

}  // namespace core
