// The client's chain, certificate by certificate: cache, responder, verdict.
#include "server/http/client_status.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "core/clock.h"
#include "core/tls.h"
#include "server/http/tls_sessions.h"

namespace server {

namespace {

using core::CertificateStatus;

constexpr int64_t unbounded_answer_s = 3600;     // how long one without nextUpdate is believed

// What a session notes of its client; 0: nothing was asked.
enum Outcome : int { unasked, good, request_failed, revoked, unknown };

int outcome_slot() {
    static const int slot = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return slot;
}

Outcome outcome_of(CertificateStatus status) {
    if (status == CertificateStatus::good) return good;
    return status == CertificateStatus::revoked ? revoked : unknown;
}

// The certificate as its issuer knows it.
std::string cache_key(X509* certificate, X509* issuer) {
    unsigned char room[3 * 32] = {};
    const ASN1_INTEGER* serial = X509_get0_serialNumber(certificate);
    X509_NAME_digest(X509_get_subject_name(issuer), EVP_sha256(), room, nullptr);
    X509_pubkey_digest(issuer, EVP_sha256(), room + 32, nullptr);
    EVP_Digest(ASN1_STRING_get0_data(serial), size_t(ASN1_STRING_length(serial)), room + 64,
               nullptr, EVP_sha256(), nullptr);
    std::string key(32, '\0');
    EVP_Digest(room, sizeof room, reinterpret_cast<unsigned char*>(key.data()), nullptr,
               EVP_sha256(), nullptr);
    return key;
}

int rule_slot() {
    static const int slot = SSL_CTX_get_ex_new_index(
        0, nullptr, nullptr, nullptr, [](void*, void* rule, CRYPTO_EX_DATA*, int, long, void*) {
            delete static_cast<ClientStatusRule*>(rule);
        });
    return slot;
}

}  // namespace

void use_client_status(SSL_CTX* context, std::unique_ptr<ClientStatusRule> rule) {
    SSL_CTX_set_ex_data(context, rule_slot(), rule.release());
}

ClientStatusRule* client_status_rule(SSL_CTX* context) {
    return static_cast<ClientStatusRule*>(SSL_CTX_get_ex_data(context, rule_slot()));
}

ClientStatusRule* client_status_rule(const core::TlsSession& session) {
    return client_status_rule(SSL_get_SSL_CTX(session.native()));
}

const char* client_status_error(const core::TlsSession& session) {
    auto noted = reinterpret_cast<intptr_t>(SSL_get_ex_data(session.native(), outcome_slot()));
    switch (noted) {
        case request_failed: return "certificate status request failed";
        case revoked: return "certificate revoked";
        case unknown: return "certificate status unknown";
        default: return nullptr;
    }
}

ClientStatusCheck::ClientStatusCheck(const ClientStatusRule& rule, core::TlsSession& session,
                                     const core::LogContext& log, std::function<void()> done)
    : rule_(rule), session_(session), log_(log), done_(std::move(done)) {}

ClientStatusCheck::~ClientStatusCheck() { sk_X509_pop_free(chain_, X509_free); }

bool ClientStatusCheck::begin() {
    SSL* ssl = session_.native();
    if (!SSL_get0_peer_certificate(ssl) || session_.verify_result() != X509_V_OK) return false;
    Step step = find_chain() ? next() : decide(request_failed);
    return step == Step::waiting;
}

// From the client's certificate to its root. A resumed session does not remember the chain that was
// verified: it is put together again.
bool ClientStatusCheck::find_chain() {
    SSL* ssl = session_.native();
    if (STACK_OF(X509)* verified = SSL_get0_verified_chain(ssl)) {
        chain_ = X509_chain_up_ref(verified);
        return chain_ != nullptr;
    }
    ERR_clear_error();
    X509_STORE_CTX* search = X509_STORE_CTX_new();
    X509_STORE* store = SSL_CTX_get_cert_store(SSL_get_SSL_CTX(ssl));
    if (search &&
        X509_STORE_CTX_init(search, store, SSL_get0_peer_certificate(ssl),
                            SSL_get_peer_cert_chain(ssl)) &&
        X509_verify_cert(search) > 0) {
        chain_ = X509_STORE_CTX_get1_chain(search);
    }
    X509_STORE_CTX_free(search);
    if (!chain_) {
        LOG(log_, error, 0, "X509_verify_cert() failed%s", core::take_tls_errors().c_str());
    }
    return chain_ != nullptr;
}

// Roots vouch for themselves and are not asked for.
ClientStatusCheck::Step ClientStatusCheck::next() {
    for (;; ++at_) {
        if (at_ + 1 >= sk_X509_num(chain_) || (rule_.leaf_only && at_ == 1)) return decide(good);
        X509* certificate = sk_X509_value(chain_, at_);
        X509* issuer = sk_X509_value(chain_, at_ + 1);
        std::string known = rule_.cache ? rule_.cache->get(cache_key(certificate, issuer)) : "";
        if (known.empty()) return ask(certificate, issuer);
        auto status = CertificateStatus(known[0] - '0');
        if (status != CertificateStatus::good) return decide(outcome_of(status));
    }
}

ClientStatusCheck::Step ClientStatusCheck::ask(X509* certificate, X509* issuer) {
    auto responder = rule_.responder;
    if (!responder) {
        std::string url = core::ocsp_responder(certificate);
        if (url.empty()) {
            LOG(log_, error, 0, "no OCSP responder URL in certificate");
            return decide(request_failed);
        }
        auto parsed = OcspResponder::parse(url);
        if (!parsed) {
            LOG(log_, error, 0, "%s in certificate", parsed.error().what.c_str());
            return decide(request_failed);
        }
        responder = std::move(*parsed);
    }
    auto question = core::make_ocsp_request(certificate, issuer);
    if (!question) {
        LOG(log_, crit, 0, "%s", question.error().what.c_str());
        return decide(request_failed);
    }
    request_ = std::make_unique<OcspRequest>(
        std::move(*responder), std::move(*question), std::string(), log_,
        [this](const std::string* answer) { answered(answer); });
    request_->start(rule_.resolving);
    return Step::waiting;
}

void ClientStatusCheck::answered(const std::string* answer) {
    auto request = std::move(request_);
    Step step = answer ? judge(*answer, request->log()) : decide(request_failed);
    if (step == Step::waiting) return;
    auto done = std::move(done_);
    done();                                      // may destroy it
}

ClientStatusCheck::Step ClientStatusCheck::judge(core::Slice answer, const core::LogContext& log) {
    X509* certificate = sk_X509_value(chain_, at_);
    X509* issuer = sk_X509_value(chain_, at_ + 1);
    SSL_CTX* context = SSL_get_SSL_CTX(session_.native());
    core::OcspTrust trust{.chain = chain_, .store = SSL_CTX_get_cert_store(context)};
    auto verdict = core::judge_ocsp_response(answer, certificate, issuer, trust);
    if (!verdict) {
        LOG(log, error, 0, "%s", verdict.error().what.c_str());
        return decide(request_failed);
    }
    if (rule_.cache) {
        int64_t until_s = verdict->valid_until_s;
        if (until_s == INT64_MAX) until_s = int64_t(core::Clock::seconds()) + unbounded_answer_s;
        char noted = char('0' + int(verdict->status));
        rule_.cache->put(cache_key(certificate, issuer), {&noted, 1}, until_s);
    }
    if (verdict->status != CertificateStatus::good) return decide(outcome_of(verdict->status));
    ++at_;
    return next();
}

ClientStatusCheck::Step ClientStatusCheck::decide(int outcome) {
    SSL_set_ex_data(session_.native(), outcome_slot(), reinterpret_cast<void*>(intptr_t(outcome)));
    return Step::decided;
}

}  // namespace server
