// Whether the certificates that a client showed were revoked (ssl_ocsp): asked of their responders
// once the handshake is over and before the first request is read, with a cache that all workers
// share (ssl_ocsp_cache).
//
// Made by modules/ssl_ocsp.cpp, run by http/tls_accept; knows no directives and no requests.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "core/ocsp.h"
#include "server/http/ocsp_request.h"

struct ssl_ctx_st;
struct stack_st_X509;
struct x509_st;

namespace core {
class TlsSession;
}

namespace server {

class TlsSessionCache;

// A server's demand.
struct ClientStatusRule {
    bool leaf_only = false;                      // ssl_ocsp leaf
    std::optional<OcspResponder> responder;      // instead of those the certificates name
    std::shared_ptr<TlsSessionCache> cache;      // null: each connection asks
    OcspResolving resolving;
};

// Demanded of the clients of `context`, which keeps the rule.
void use_client_status(ssl_ctx_st* context, std::unique_ptr<ClientStatusRule> rule);
ClientStatusRule* client_status_rule(ssl_ctx_st* context);              // null: none
ClientStatusRule* client_status_rule(const core::TlsSession& session);  // of its server

// What is wrong with the client's certificate, in nginx's words; null: nothing, or not asked.
const char* client_status_error(const core::TlsSession& session);

class ClientStatusCheck {
  public:
    // `done` is called from the loop, and may destroy the check.
    ClientStatusCheck(const ClientStatusRule& rule, core::TlsSession& session,
                      const core::LogContext& log, std::function<void()> done);
    ~ClientStatusCheck();

    // False: it is decided already, and done is not called.
    bool begin();

  private:
    enum class Step : uint8_t { waiting, decided };
    Step next();
    Step ask(x509_st* certificate, x509_st* issuer);
    void answered(const std::string* answer);
    Step judge(core::Slice answer, const core::LogContext& log);
    bool find_chain();
    Step decide(int outcome);

    const ClientStatusRule& rule_;
    core::TlsSession& session_;
    core::LogContext log_;
    std::function<void()> done_;
    stack_st_X509* chain_ = nullptr;
    int at_ = 0;                                 // the certificate being asked for
    std::unique_ptr<OcspRequest> request_;
};

}  // namespace server
