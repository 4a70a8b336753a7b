// Scripts in TLS handshakes with upstream servers; see tls_scripts.h.
#include "server/upstream/tls_scripts.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "server/http/request.h"
#include "server/upstream/session.h"

namespace server {

namespace {

UpstreamTlsScripts* scripts = nullptr;

// Where a session finds its handshake: verifications are the context's.
int slot() {
    static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return index;
}

constexpr const char* actions[] = {"loading proxy ssl certificate by lua",
                                   "loading proxy ssl verify by lua"};

}  // namespace

UpstreamTlsScripts* upstream_tls_scripts() { return scripts; }
void set_upstream_tls_scripts(UpstreamTlsScripts& given) { scripts = &given; }

bool has_upstream_tls_scripts(const Location& location) {
    return scripts && scripts->steps_of(location) != 0;
}

core::Result<void> check_upstream_tls_scripts(const Location& location) {
    uint8_t steps = scripts ? scripts->steps_of(location) : 0;
    if (!steps) return {};
    bool chooses = steps & upstream_tls_bit(UpstreamTlsStep::certificate);
    return core::Error{std::string(chooses ? "proxy_ssl_certificate_by_lua*"
                                           : "proxy_ssl_verify_by_lua*") +
                       " should be used with proxy_pass https url"};
}

UpstreamHandshake::UpstreamHandshake(UpstreamSession& session, Request& request, SSL* ssl,
                                     uint8_t steps)
    : session_(session), request_(request), ssl_(ssl), steps_(steps) {
    SSL_up_ref(ssl);
    SSL_set_ex_data(ssl, slot(), this);
    if (steps & upstream_tls_bit(UpstreamTlsStep::certificate)) {
        SSL_set_cert_cb(ssl, choose_certificate, this);
    }
}

UpstreamHandshake::~UpstreamHandshake() {
    data.reset();
    SSL_set_ex_data(ssl_, slot(), nullptr);
    SSL_set_cert_cb(ssl_, nullptr, nullptr);
    SSL_free(ssl_);
    X509_free(certificate_);
}

std::unique_ptr<UpstreamHandshake> UpstreamHandshake::begin(UpstreamSession& session,
                                                            Request& request, SSL* ssl) {
    uint8_t steps = scripts ? scripts->steps_of(*request.location) : 0;
    if (!steps) return nullptr;
    return std::unique_ptr<UpstreamHandshake>(new UpstreamHandshake(session, request, ssl, steps));
}

UpstreamHandshake* UpstreamHandshake::of(Request& request) {
    UpstreamRecord* record = find_upstream_record(request);
    return record && record->session ? record->session->handshake() : nullptr;
}

void UpstreamHandshake::serve(SSL_CTX* context) {
    SSL_CTX_set_cert_verify_callback(context, verify_certificate, nullptr);
}

// Each script runs once, however often its callback is called.
UpstreamHandshake::Answer UpstreamHandshake::ask(UpstreamTlsStep step) {
    if (!(steps_ & upstream_tls_bit(step))) return Answer::go_on;
    Answer& known = answers_[size_t(step)];
    if (known != Answer::none) return known;
    core::LogContext& log = request_.log;
    const char* action = std::exchange(log.action, actions[size_t(step)]);
    known = scripts->run(*this, step);
    ERR_clear_error();             // what it left would be taken for the handshake's
    if (known != Answer::wait) log.action = action;
    return known;
}

void UpstreamHandshake::answer(UpstreamTlsStep step, Answer given) {
    answers_[size_t(step)] = given;
    session_.handshake_answered();
}

int UpstreamHandshake::choose_certificate(SSL*, void* self) {
    Answer answered = static_cast<UpstreamHandshake*>(self)->ask(UpstreamTlsStep::certificate);
    if (answered == Answer::wait) return -1;
    return answered == Answer::fail ? 0 : 1;
}

int UpstreamHandshake::verify_certificate(X509_STORE_CTX* store, void*) {
    auto* ssl = static_cast<SSL*>(
        X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    auto* self = static_cast<UpstreamHandshake*>(SSL_get_ex_data(ssl, slot()));
    bool scripted = self && (self->steps_ & upstream_tls_bit(UpstreamTlsStep::verify));
    return scripted ? self->verify(store) : X509_verify_cert(store);
}

// OpenSSL asks again when a script was waited for, with a new store: what it is told each time is
// what is known by then.
int UpstreamHandshake::verify(X509_STORE_CTX* store) {
    Answer& known = answers_[size_t(UpstreamTlsStep::verify)];
    if (known == Answer::none) {
        if (!scripts->skips_own_verification(*request_.location)) {
            LOG(request_.log, debug, 0, "proxy_ssl_verify_by_lua: openssl default verify");
            if (X509_verify_cert(store) <= 0) return 0;
        }
        verify_result = X509_STORE_CTX_get_error(store);
        certificate_ = X509_STORE_CTX_get0_cert(store);
        if (certificate_) X509_up_ref(certificate_);
    }
    if (ask(UpstreamTlsStep::verify) == Answer::wait) return SSL_set_retry_verify(ssl_);
    X509_STORE_CTX_set_error(store, verify_result);
    return known == Answer::fail ? 0 : 1;
}

}  // namespace server
