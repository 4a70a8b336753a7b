// UpstreamHandshake: the part that scripts take in a TLS handshake with an upstream server: they
// choose our certificate, and judge the server's. Made for one handshake of a request whose
// location has such scripts, gone when that is over. UpstreamSession (session_tls.cpp) makes it and
// holds still while a script is waited for. Knows no Lua: lua/upstream_tls_by_lua.cpp is the one
// UpstreamTlsScripts.
#pragma once

#include <cstdint>
#include <memory>

#include "core/result.h"

struct ssl_st;
struct ssl_ctx_st;
struct x509_st;
struct x509_store_ctx_st;

namespace server {

class Configuration;
class Request;
class UpstreamSession;
struct Location;

enum class UpstreamTlsStep : uint8_t { certificate, verify };
constexpr uint8_t upstream_tls_bit(UpstreamTlsStep step) { return uint8_t(1u << unsigned(step)); }

class UpstreamHandshake {
  public:
    // What the scripts keep meanwhile. Its destructor cancels what still runs.
    struct Data {
        virtual ~Data() = default;
    };
    enum class Answer : uint8_t { none, go_on, fail, wait };

    // Null without scripts. Takes part in the handshake of `ssl` until it is destroyed.
    static std::unique_ptr<UpstreamHandshake> begin(UpstreamSession& session, Request& request,
                                                    ssl_st* ssl);
    // The one of a request; null when it is in no handshake.
    static UpstreamHandshake* of(Request& request);
    ~UpstreamHandshake();
    UpstreamHandshake(const UpstreamHandshake&) = delete;
    UpstreamHandshake& operator=(const UpstreamHandshake&) = delete;

    // Once for a context: its sessions' verifications come here.
    static void serve(ssl_ctx_st* context);
    // A script did not let the server's certificate pass.
    bool refused() const { return answers_[size_t(UpstreamTlsStep::verify)] == Answer::fail; }

    // ---- for scripts ----

    Request& request() const { return request_; }
    // Of the server's certificate, X509_V_*: what OpenSSL found, until a script sets another.
    int verify_result = 0;
    x509_st* certificate() const { return certificate_; }
    // A script that was waited for is done. May end the request's exchange, and this with it.
    void answer(UpstreamTlsStep step, Answer given);
    std::unique_ptr<Data> data;

  private:
    UpstreamHandshake(UpstreamSession& session, Request& request, ssl_st* ssl, uint8_t steps);
    Answer ask(UpstreamTlsStep step);
    int verify(x509_store_ctx_st* store);
    static int choose_certificate(ssl_st* ssl, void* self);
    static int verify_certificate(x509_store_ctx_st* store, void*);

    UpstreamSession& session_;
    Request& request_;
    ssl_st* ssl_;
    x509_st* certificate_ = nullptr;
    uint8_t steps_;
    Answer answers_[2] = {};
};

class UpstreamTlsScripts {
  public:
    // The steps, as bits, that requests of this location have scripts for.
    virtual uint8_t steps_of(const Location& location) const = 0;
    // Is the server's certificate the script's business alone?
    virtual bool skips_own_verification(const Location& location) const = 0;
    // Called inside OpenSSL's callback. wait: UpstreamHandshake::answer() says what came of it.
    virtual UpstreamHandshake::Answer run(UpstreamHandshake& handshake, UpstreamTlsStep step) = 0;

  protected:
    ~UpstreamTlsScripts() = default;
};
// Null until set, before the configuration is read.
UpstreamTlsScripts* upstream_tls_scripts();
void set_upstream_tls_scripts(UpstreamTlsScripts& scripts);
// Whether a location has scripts: connections and sessions of one without are not for it.
bool has_upstream_tls_scripts(const Location& location);
// The location asks nobody by TLS: an error when it has scripts for that.
core::Result<void> check_upstream_tls_scripts(const Location& location);

}  // namespace server
