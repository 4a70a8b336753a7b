// OCSP answers kept for handshakes, and their renewal.
#include "server/http/stapling.h"

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "core/ocsp.h"
#include "core/tls.h"

namespace server {

namespace {

// Questions of one worker under way at once: a server of many names must not fall upon a responder.
constexpr int requests_max = 8;
constexpr int64_t busy_wait_ms = 200;
// An answer is renewed five minutes before its end, but at least every hour; after a failure soon,
// and then ever less often.
constexpr int64_t margin_s = 300, renew_most_s = 3600, renew_least_s = 300;
constexpr int64_t retry_first_s = 1, retry_most_s = 300;

int running = 0;

using core::Error;
using core::Result;
using core::Slice;

Result<std::string> read_answer(const std::string& path) {
    auto failed = [&](const char* call) {
        return Error{std::string(call) + "(\"" + path + "\") failed" + core::take_tls_errors()};
    };
    ERR_clear_error();
    BIO* file = BIO_new_file(path.c_str(), "rb");
    if (!file) return failed("BIO_new_file");
    OCSP_RESPONSE* answer = d2i_OCSP_RESPONSE_bio(file, nullptr);
    BIO_free(file);
    if (!answer) return failed("d2i_OCSP_RESPONSE_bio");
    std::string der(size_t(i2d_OCSP_RESPONSE(answer, nullptr)), '\0');
    auto* at = reinterpret_cast<unsigned char*>(der.data());
    i2d_OCSP_RESPONSE(answer, &at);
    OCSP_RESPONSE_free(answer);
    return der;
}

}  // namespace

void X509Free::operator()(X509* certificate) const { X509_free(certificate); }

// One certificate's answer.
class Stapling::Staple {
  public:
    Staple(SSL_CTX* context, X509* certificate, std::string name)
        : certificate_(certificate),
          name_(std::move(name)),
          context_(context),
          timer_([](void* self) { static_cast<Staple*>(self)->ask(); }, this) {
        X509_up_ref(certificate);
    }
    ~Staple() { stop(); }

    bool is_for(const X509* certificate) const { return certificate_.get() == certificate; }
    void keep(std::string answer, int64_t valid_until_s) {
        answer_ = std::move(answer);
        valid_until_s_ = valid_until_s;
    }
    Slice current() const {
        return valid_until_s_ >= int64_t(core::Clock::seconds()) ? Slice(answer_) : Slice();
    }

    // Empty, or why there is nobody to ask.
    std::string find_responder(const Settings& settings) {
        verify_ = settings.verify;
        SSL_CTX_select_current_cert(context_, certificate_.get());
        SSL_CTX_get0_chain_certs(context_, &chain_);
        issuer_.reset(core::find_issuer(certificate_.get(), chain_,
                                        SSL_CTX_get_cert_store(context_)));
        if (!issuer_) return "issuer certificate not found for certificate \"" + name_ + "\"";
        std::string url = settings.responder;
        if (url.empty()) url = core::ocsp_responder(certificate_.get());
        if (url.empty()) return "no OCSP responder URL in the certificate \"" + name_ + "\"";
        auto parsed = OcspResponder::parse(url);
        if (!parsed) return parsed.error().what + " in the certificate \"" + name_ + "\"";
        responder_ = std::move(*parsed);
        return {};
    }

    void start(const OcspResolving& resolving) {
        if (responder_.host.empty()) return;     // from a file
        resolving_ = resolving;
        timer_.set(0);
    }
    void stop() {
        timer_.cancel();
        if (!request_) return;
        --running;
        request_.reset();
    }

  private:
    void ask() {
        if (running >= requests_max) return timer_.set(busy_wait_ms);
        auto question = core::make_ocsp_request(certificate_.get(), issuer_.get());
        if (!question) {
            LOG(core::process_log(), crit, 0, "%s", question.error().what.c_str());
            return failed();
        }
        ++running;
        request_ = std::make_unique<OcspRequest>(
            responder_, std::move(*question), name_, core::process_log(),
            [this](const std::string* answer) { answered(answer); });
        request_->start(resolving_);
    }

    void answered(const std::string* answer) {
        --running;
        auto request = std::move(request_);
        if (!answer) return failed();
        auto verdict = judge(*answer);
        if (!verdict) {
            LOG(request->log(), error, 0, "%s", verdict.error().what.c_str());
            return failed();
        }
        if (verdict->status != core::CertificateStatus::good) {
            LOG(request->log(), error, 0, "certificate status \"%s\" in the OCSP response",
                core::certificate_status_name(verdict->status));
            return failed();
        }
        keep(*answer, verdict->valid_until_s);
        retry_s_ = retry_first_s;
        int64_t left_s = verdict->valid_until_s - int64_t(core::Clock::seconds());
        timer_.set(std::max(std::min(left_s - margin_s, renew_most_s), renew_least_s) * 1000);
    }

    Result<core::OcspVerdict> judge(Slice answer) {
        core::OcspTrust trust{.chain = chain_, .store = SSL_CTX_get_cert_store(context_),
                              .flags = unsigned(verify_ ? OCSP_TRUSTOTHER : OCSP_NOVERIFY)};
        return core::judge_ocsp_response(answer, certificate_.get(), issuer_.get(), trust);
    }

    // What is there stays, for as long as it is good.
    void failed() {
        timer_.set(retry_s_ * 1000);
        retry_s_ = std::min(2 * retry_s_, retry_most_s);
    }

    CertificatePtr certificate_, issuer_;
    std::string name_;
    SSL_CTX* context_;
    STACK_OF(X509)* chain_ = nullptr;    // the context's
    OcspResponder responder_;
    bool verify_ = false;
    OcspResolving resolving_;
    std::string answer_;
    int64_t valid_until_s_ = -1;
    int64_t retry_s_ = retry_first_s;
    core::Timer timer_;
    std::unique_ptr<OcspRequest> request_;
};

Stapling::Stapling() = default;
Stapling::~Stapling() = default;

namespace {

int stapling_slot() {
    static const int slot = SSL_CTX_get_ex_new_index(
        0, nullptr, nullptr, nullptr,
        [](void*, void* stapling, CRYPTO_EX_DATA*, int, long, void*) {
            delete static_cast<Stapling*>(stapling);
        });
    return slot;
}

}  // namespace

Result<void> Stapling::attach(SSL_CTX* context, const Settings& settings,
                              std::vector<std::string>& warnings) {
    std::unique_ptr<Stapling> made(new Stapling);
    std::string from_file;
    if (!settings.file.empty()) {
        auto read = read_answer(settings.file);
        if (!read) return read.take_error();
        from_file = std::move(*read);
    }
    std::vector<X509*> certificates;
    for (long which = SSL_CERT_SET_FIRST; SSL_CTX_set_current_cert(context, which) == 1;
         which = SSL_CERT_SET_NEXT) {
        certificates.push_back(SSL_CTX_get0_certificate(context));
    }
    for (X509* certificate : certificates) {
        auto staple = std::make_unique<Staple>(context, certificate,
                                               core::certificate_name(certificate));
        if (!from_file.empty()) {
            staple->keep(from_file, INT64_MAX);
        } else if (std::string why = staple->find_responder(settings); !why.empty()) {
            warnings.push_back("\"ssl_stapling\" ignored, " + why);
            continue;
        }
        made->staples_.push_back(std::move(staple));
    }
    SSL_CTX_set_tlsext_status_cb(context, answer);
    SSL_CTX_set_tlsext_status_arg(context, made.get());
    SSL_CTX_set_ex_data(context, stapling_slot(), made.release());
    return {};
}

Stapling* Stapling::of(SSL_CTX* context) {
    return static_cast<Stapling*>(SSL_CTX_get_ex_data(context, stapling_slot()));
}

void Stapling::start(const OcspResolving& resolving) {
    for (auto& staple : staples_) staple->start(resolving);
}

void Stapling::stop() {
    for (auto& staple : staples_) staple->stop();
}

// OpenSSL's: the client asked for the status of the certificate that was chosen.
int Stapling::answer(SSL* ssl, void* self) {
    const unsigned char* given = nullptr;
    if (SSL_get_tlsext_status_ocsp_resp(ssl, &given) > 0) return SSL_TLSEXT_ERR_OK;   // a script's
    const X509* certificate = SSL_get_certificate(ssl);
    for (auto& staple : static_cast<Stapling*>(self)->staples_) {
        if (!staple->is_for(certificate)) continue;
        Slice current = staple->current();
        if (current.empty()) return SSL_TLSEXT_ERR_NOACK;
        auto* copy = static_cast<unsigned char*>(OPENSSL_malloc(current.size()));
        if (!copy) return SSL_TLSEXT_ERR_NOACK;
        std::memcpy(copy, current.data(), current.size());
        SSL_set_tlsext_status_ocsp_resp(ssl, copy, long(current.size()));
        return SSL_TLSEXT_ERR_OK;
    }
    return SSL_TLSEXT_ERR_NOACK;
}

}  // namespace server
