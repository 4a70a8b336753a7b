// OCSP by OpenSSL's functions: requests made, responses judged.
#include "core/ocsp.h"

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>

#include "core/text.h"
#include "core/tls.h"

namespace core {

namespace {

struct Free {
    void operator()(OCSP_REQUEST* it) const { OCSP_REQUEST_free(it); }
    void operator()(OCSP_RESPONSE* it) const { OCSP_RESPONSE_free(it); }
    void operator()(OCSP_BASICRESP* it) const { OCSP_BASICRESP_free(it); }
    void operator()(OCSP_CERTID* it) const { OCSP_CERTID_free(it); }
    void operator()(X509_STORE_CTX* it) const { X509_STORE_CTX_free(it); }
};
template <class T>
using Owned = std::unique_ptr<T, Free>;

// How far this machine's clock may be from the responder's.
constexpr long clock_skew_s = 300;

Error failed(const char* call) { return {std::string(call) + " failed" + take_tls_errors()}; }

int64_t seconds_of(const ASN1_GENERALIZEDTIME* time) {
    std::tm parts{};
    if (!time || ASN1_TIME_to_tm(time, &parts) != 1) return INT64_MAX;
    return int64_t(timegm(&parts));
}

CertificateStatus status_of(int status) {
    if (status == V_OCSP_CERTSTATUS_GOOD) return CertificateStatus::good;
    return status == V_OCSP_CERTSTATUS_REVOKED ? CertificateStatus::revoked
                                               : CertificateStatus::unknown;
}

// A signed answer that says something of this certificate, and now.
Result<OcspVerdict> read_answer(OCSP_BASICRESP* answer, X509* certificate, X509* issuer) {
    Owned<OCSP_CERTID> id(OCSP_cert_to_id(nullptr, certificate, issuer));
    if (!id) return failed("OCSP_cert_to_id()");
    int status = 0;
    ASN1_GENERALIZEDTIME* this_update = nullptr;
    ASN1_GENERALIZEDTIME* next_update = nullptr;
    if (OCSP_resp_find_status(answer, id.get(), &status, nullptr, nullptr, &this_update,
                              &next_update) != 1) {
        ERR_clear_error();
        return Error{"certificate status not found in the OCSP response"};
    }
    // Bad news do not age.
    if (status == V_OCSP_CERTSTATUS_GOOD &&
        OCSP_check_validity(this_update, next_update, clock_skew_s, -1) != 1) {
        return failed("OCSP_check_validity()");
    }
    return OcspVerdict{status_of(status), seconds_of(next_update)};
}

}  // namespace

std::string ocsp_responder(X509* certificate) {
    std::string url;
    STACK_OF(OPENSSL_STRING)* named = X509_get1_ocsp(certificate);
    if (named && sk_OPENSSL_STRING_num(named) > 0) url = sk_OPENSSL_STRING_value(named, 0);
    X509_email_free(named);
    return url;
}

Result<std::string> make_ocsp_request(X509* certificate, X509* issuer) {
    ERR_clear_error();
    Owned<OCSP_REQUEST> request(OCSP_REQUEST_new());
    if (!request) return failed("OCSP_REQUEST_new()");
    Owned<OCSP_CERTID> id(OCSP_cert_to_id(nullptr, certificate, issuer));
    if (!id) return failed("OCSP_cert_to_id()");
    if (!OCSP_request_add0_id(request.get(), id.get())) return failed("OCSP_request_add0_id()");
    id.release();                            // the request's now
    int size = i2d_OCSP_REQUEST(request.get(), nullptr);
    if (size <= 0) return failed("i2d_OCSP_REQUEST()");
    std::string der(size_t(size), '\0');
    auto* at = reinterpret_cast<unsigned char*>(der.data());
    i2d_OCSP_REQUEST(request.get(), &at);
    return der;
}

Result<OcspVerdict> judge_ocsp_response(Slice der, X509* certificate, X509* issuer,
                                        const OcspTrust& trust) {
    ERR_clear_error();
    auto* at = reinterpret_cast<const unsigned char*>(der.data());
    Owned<OCSP_RESPONSE> response(d2i_OCSP_RESPONSE(nullptr, &at, long(der.size())));
    if (!response) return failed("d2i_OCSP_RESPONSE()");
    int outcome = OCSP_response_status(response.get());
    if (outcome != OCSP_RESPONSE_STATUS_SUCCESSFUL) {
        return Error{format("OCSP response not successful (%d: %s)", outcome,
                            OCSP_response_status_str(outcome))};
    }
    Owned<OCSP_BASICRESP> answer(OCSP_response_get1_basic(response.get()));
    if (!answer) return failed("OCSP_response_get1_basic()");
    if (OCSP_basic_verify(answer.get(), trust.chain, trust.store, trust.flags) != 1) {
        return failed("OCSP_basic_verify()");
    }
    ERR_clear_error();
    return read_answer(answer.get(), certificate, issuer);
}

const char* certificate_status_name(CertificateStatus status) {
    constexpr const char* names[] = {"good", "revoked", "unknown"};
    return names[size_t(status)];
}

X509* find_issuer(X509* certificate, STACK_OF(X509)* chain, X509_STORE* store) {
    for (int i = 0; i < sk_X509_num(chain); ++i) {
        X509* candidate = sk_X509_value(chain, i);
        if (X509_check_issued(candidate, certificate) != X509_V_OK) continue;
        X509_up_ref(candidate);
        return candidate;
    }
    Owned<X509_STORE_CTX> search(X509_STORE_CTX_new());
    X509* issuer = nullptr;
    if (store && search && X509_STORE_CTX_init(search.get(), store, nullptr, nullptr) &&
        X509_STORE_CTX_get1_issuer(&issuer, search.get(), certificate) != 1) {
        issuer = nullptr;
    }
    ERR_clear_error();
    return issuer;
}

}  // namespace core
