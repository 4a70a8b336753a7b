// Certificate status (OCSP, RFC 6960) without any network: where to ask, what to ask, and what an
// answer says. Used for stapling, for client certificates and by Lua's ngx.ocsp.
//
// Knows OpenSSL and nothing else; who asks, and over what, is the caller's business.
#pragma once

#include <cstdint>
#include <string>

#include "core/result.h"
#include "core/slice.h"

struct x509_st;
struct x509_store_st;
struct stack_st_X509;

namespace core {

enum class CertificateStatus : uint8_t { good, revoked, unknown };   // V_OCSP_CERTSTATUS_*

struct OcspVerdict {
    CertificateStatus status = CertificateStatus::unknown;
    int64_t valid_until_s = INT64_MAX;       // nextUpdate (wall clock); no bound without one
};

// The first responder that a certificate names; empty for none.
std::string ocsp_responder(x509_st* certificate);
// A request in DER. The error is OpenSSL's: "OCSP_cert_to_id() failed (SSL: …)".
Result<std::string> make_ocsp_request(x509_st* certificate, x509_st* issuer);

// Whose signatures count.
struct OcspTrust {
    stack_st_X509* chain = nullptr;          // certificates that may have signed
    x509_store_st* store = nullptr;
    unsigned long flags = 0;                 // OCSP_NOVERIFY, OCSP_TRUSTOTHER
};
// What an answer in DER says of the certificate. An error is for the log, in nginx's words.
Result<OcspVerdict> judge_ocsp_response(Slice der, x509_st* certificate, x509_st* issuer,
                                        const OcspTrust& trust);
const char* certificate_status_name(CertificateStatus status);   // "good", "revoked", "unknown"

// Who issued a certificate, found among `chain` or in `store`. A reference; null when unknown.
x509_st* find_issuer(x509_st* certificate, stack_st_X509* chain, x509_store_st* store);

}  // namespace core
