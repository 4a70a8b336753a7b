// Scripts in TLS handshakes; see handshake.h.
#include "server/http/handshake.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <utility>

#include "server/config.h"
#include "server/http/tls_accept.h"

namespace server {

namespace {

HandshakeScripts* scripts = nullptr;

int slot() {
    auto drop = [](void*, void* handshake, CRYPTO_EX_DATA*, int, long, void*) {
        delete static_cast<Handshake*>(handshake);
    };
    static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, drop);
    return index;
}

constexpr const char* actions[] = {"loading SSL client hello by lua", "fetching SSL session by lua",
                                   "loading SSL certificate by lua", "storing SSL session by lua"};

// Whether the hello offers TLS 1.3 (RFC 8446 4.2.1) and this side would speak it.
bool will_speak_tls13(SSL* ssl) {
    if (SSL_get_options(ssl) & SSL_OP_NO_TLSv1_3) return false;
    long most = SSL_get_max_proto_version(ssl);
    if (most && most < TLS1_3_VERSION) return false;
    const unsigned char* list = nullptr;
    size_t size = 0;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_supported_versions, &list, &size)) return false;
    for (size_t i = 1; i + 1 < size; i += 2) {
        if ((list[i] << 8 | list[i + 1]) == TLS1_3_VERSION) return true;
    }
    return false;
}

// With a ticket OpenSSL asks no cache.
bool brings_ticket(SSL* ssl) {
    if (SSL_get_options(ssl) & SSL_OP_NO_TICKET) return false;
    const unsigned char* ticket = nullptr;
    size_t size = 0;
    return SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_session_ticket, &ticket, &size) && size;
}

}  // namespace

HandshakeScripts* handshake_scripts() { return scripts; }
void set_handshake_scripts(HandshakeScripts& given) { scripts = &given; }

Handshake::Handshake(SSL* ssl, TlsAccept& accept, const VirtualServer& server, uint8_t steps)
    : ssl_(ssl),
      accept_(&accept),
      server_(server),
      default_server_(*accept.listen.default_server),
      steps_(steps) {}

Handshake::~Handshake() {
    data.reset();
    SSL_SESSION_free(session_);
}

Handshake* Handshake::of(const SSL* ssl) {
    return static_cast<Handshake*>(SSL_get_ex_data(ssl, slot()));
}

Handshake& Handshake::begin(SSL* ssl, TlsAccept& accept, const VirtualServer& server,
                            uint8_t steps) {
    auto* made = new Handshake(ssl, accept, server, steps);
    SSL_set_ex_data(ssl, slot(), made);
    return *made;
}

void Handshake::serve(SSL_CTX* context, uint8_t steps) {
    if (steps & handshake_bit(HandshakeStep::certificate)) {
        SSL_CTX_set_cert_cb(context, choose_certificate, nullptr);
    }
    if (steps & handshake_bit(HandshakeStep::session_fetch)) {
        SSL_CTX_sess_set_get_cb(context, give_session);
    }
    if (steps & handshake_bit(HandshakeStep::session_store)) {
        SSL_CTX_sess_set_new_cb(context, store_session);
    }
}

Connection* Handshake::connection() const { return accept_; }

void Handshake::offer(SSL_SESSION* found) { SSL_SESSION_free(std::exchange(session_, found)); }

// Each script runs once, however often its callback is called.
HandshakeAnswer Handshake::ask(HandshakeStep step) {
    if (!(steps_ & handshake_bit(step))) return HandshakeAnswer::go_on;
    HandshakeAnswer& known = answers_[size_t(step)];
    if (known != HandshakeAnswer::none) return known;
    if (!accept_) return HandshakeAnswer::go_on;       // a renegotiation
    const char* action = std::exchange(accept_->log.action, actions[size_t(step)]);
    known = scripts->run(*this, step);
    ERR_clear_error();             // what it left would be taken for the handshake's
    if (known == HandshakeAnswer::wait) {
        accept_->wait_for_script(scripts->end_with_client(server_));
    } else {
        accept_->log.action = action;
    }
    return known;
}

void Handshake::answer(HandshakeStep step, HandshakeAnswer given) {
    answers_[size_t(step)] = given;
    if (accept_) accept_->script_answered();
}

// A session is asked for by its id up to TLS 1.2 (RFC 5246 7.4.1.2); in later hellos the field has
// no meaning.
bool Handshake::names_session() {
    const unsigned char* id = nullptr;
    size_t size = SSL_client_hello_get0_session_id(ssl_, &id);
    if (size == 0 || will_speak_tls13(ssl_) || brings_ticket(ssl_)) return false;
    session_id_.assign(reinterpret_cast<const char*>(id), size);
    return true;
}

int Handshake::hello() {
    HandshakeAnswer answered = ask(HandshakeStep::client_hello);
    if (answered == HandshakeAnswer::wait) return SSL_CLIENT_HELLO_RETRY;
    if (answered == HandshakeAnswer::fail) return SSL_CLIENT_HELLO_ERROR;
    // OpenSSL asks for a session without being able to wait for it: it is fetched beforehand.
    constexpr uint8_t fetch = handshake_bit(HandshakeStep::session_fetch);
    if ((steps_ & fetch) && session_id_.empty() && !names_session()) steps_ &= uint8_t(~fetch);
    bool waits = ask(HandshakeStep::session_fetch) == HandshakeAnswer::wait;
    return waits ? SSL_CLIENT_HELLO_RETRY : SSL_CLIENT_HELLO_SUCCESS;
}

int Handshake::choose_certificate(SSL* ssl, void*) {
    Handshake* it = of(ssl);
    if (!it) return 1;
    HandshakeAnswer answered = it->ask(HandshakeStep::certificate);
    if (answered == HandshakeAnswer::wait) return -1;
    return answered == HandshakeAnswer::fail ? 0 : 1;
}

SSL_SESSION* Handshake::give_session(SSL* ssl, const unsigned char*, int, int* copy) {
    *copy = 0;
    Handshake* it = of(ssl);
    return it ? std::exchange(it->session_, nullptr) : nullptr;
}

// Sessions of TLS 1.3 have an id that only we know, and come back as tickets: nobody would look one
// up.
int Handshake::store_session(SSL* ssl, SSL_SESSION* fresh) {
    Handshake* it = of(ssl);
    if (!it || !it->accept_ || SSL_version(ssl) >= TLS1_3_VERSION) return 0;
    unsigned size = 0;
    const unsigned char* id = SSL_SESSION_get_id(fresh, &size);
    it->session_id_.assign(reinterpret_cast<const char*>(id), size);
    SSL_SESSION_up_ref(fresh);
    it->offer(fresh);
    it->ask(HandshakeStep::session_store);
    return 0;                      // the reference stays OpenSSL's
}

}  // namespace server
