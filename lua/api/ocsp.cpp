// ngx.ocsp: questions to OCSP responders and their answers, as bytes, under upstream's names.
// Certificates come as a chain in DER: ours, then its issuer.
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/ocsp.h"
#include "lua/api/ffi.h"
#include "lua/handshake_by_lua.h"

namespace lua {
namespace {

struct Free {
    void operator()(X509* it) const { X509_free(it); }
    void operator()(STACK_OF(X509)* it) const { sk_X509_free(it); }
};
using Certificate = std::unique_ptr<X509, Free>;
using Chain = std::unique_ptr<STACK_OF(X509), Free>;

struct Pair {
    Certificate leaf, issuer;
    const char* wrong = nullptr;             // what upstream says of it
};

Pair read_pair(const char* chain, size_t bytes) {
    Pair pair;
    auto* at = reinterpret_cast<const unsigned char*>(chain);
    const unsigned char* end = at + bytes;
    pair.leaf.reset(d2i_X509(nullptr, &at, long(bytes)));
    if (!pair.leaf) {
        pair.wrong = "d2i_X509_bio() failed";
    } else if (at == end) {
        pair.wrong = "no issuer certificate in chain";
    } else {
        pair.issuer.reset(d2i_X509(nullptr, &at, end - at));
        if (!pair.issuer) pair.wrong = "d2i_X509_bio() failed";
    }
    ERR_clear_error();
    return pair;
}

int fail(char** error, const char* why) {
    *error = const_cast<char*>(why);
    return ffi_error;
}

// The text, without OpenSSL's reasons.
int fail_with(unsigned char* room, size_t* bytes, core::Slice text) {
    text = text.substr(0, text.find(" (SSL:"));
    *bytes = std::min(*bytes, text.size());
    std::memcpy(room, text.data(), *bytes);
    return ffi_error;
}

// OpenSSL sends what was set only when the context has a callback that says so.
int send_what_is_set(SSL*, void*) { return SSL_TLSEXT_ERR_OK; }

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_ssl_get_ocsp_responder_from_der_chain(const char* chain_data,
                                                                   size_t chain_len, char* out,
                                                                   size_t* out_size, char** err) {
    lua::Pair pair = lua::read_pair(chain_data, chain_len);
    if (!pair.leaf) return lua::fail(err, pair.wrong);
    std::string url = core::ocsp_responder(pair.leaf.get());
    if (url.empty()) return lua::ffi_declined;
    if (pair.wrong) return lua::fail(err, pair.wrong);
    if (X509_check_issued(pair.issuer.get(), pair.leaf.get()) != X509_V_OK) {
        return lua::fail(err, "issuer certificate not next to leaf");
    }
    bool fits = url.size() <= *out_size;
    if (fits) *out_size = url.size();
    std::memcpy(out, url.data(), *out_size);
    return fits ? lua::ffi_ok : lua::ffi_busy;
}

LUA_FFI int ngx_http_lua_ffi_ssl_create_ocsp_request(const char* chain_data, size_t chain_len,
                                                     unsigned char* out, size_t* out_size,
                                                     char** err) {
    lua::Pair pair = lua::read_pair(chain_data, chain_len);
    if (pair.wrong) return lua::fail(err, pair.wrong);
    auto request = core::make_ocsp_request(pair.leaf.get(), pair.issuer.get());
    if (!request) return lua::fail(err, "i2d_OCSP_REQUEST() failed");
    bool fits = request->size() <= *out_size;
    *out_size = request->size();
    if (!fits) {
        lua::fail(err, "output buffer too small");
        return lua::ffi_busy;
    }
    std::memcpy(out, request->data(), request->size());
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_validate_ocsp_response(const unsigned char* resp, size_t resp_len,
                                                        const char* chain_data, size_t chain_len,
                                                        unsigned char* errbuf,
                                                        size_t* errbuf_size, long* valid) {
    lua::Pair pair = lua::read_pair(chain_data, chain_len);
    if (pair.wrong) return lua::fail_with(errbuf, errbuf_size, pair.wrong);
    lua::Chain chain(sk_X509_new_null());
    sk_X509_push(chain.get(), pair.issuer.get());
    core::OcspTrust trust{.chain = chain.get(), .flags = OCSP_NOVERIFY};
    auto verdict = core::judge_ocsp_response({reinterpret_cast<const char*>(resp), resp_len},
                                             pair.leaf.get(), pair.issuer.get(), trust);
    if (!verdict) return lua::fail_with(errbuf, errbuf_size, verdict.error().what);
    if (verdict->status != core::CertificateStatus::good) {
        std::string text = "certificate status \"" +
                           std::string(core::certificate_status_name(verdict->status)) +
                           "\" in the OCSP response";
        return lua::fail_with(errbuf, errbuf_size, text);
    }
    if (verdict->valid_until_s != INT64_MAX) *valid = long(verdict->valid_until_s);
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_set_ocsp_status_resp(ngx_http_request_t* r,
                                                      const unsigned char* resp, size_t resp_len,
                                                      char** err) {
    SSL* ssl = lua::client_tls(*r);
    if (!ssl) return lua::fail(err, "bad request");
    if (SSL_get_tlsext_status_type(ssl) == -1) return lua::ffi_declined;
    SSL_CTX* context = SSL_get_SSL_CTX(ssl);
    int (*known)(SSL*, void*) = nullptr;
    SSL_CTX_get_tlsext_status_cb(context, &known);
    if (!known) SSL_CTX_set_tlsext_status_cb(context, lua::send_what_is_set);
    auto* copy = static_cast<unsigned char*>(OPENSSL_malloc(resp_len));
    if (!copy) return lua::fail(err, "OPENSSL_malloc() failed");
    std::memcpy(copy, resp, resp_len);
    if (SSL_set_tlsext_status_ocsp_resp(ssl, copy, long(resp_len)) != 1) {
        OPENSSL_free(copy);
        return lua::fail(err, "SSL_set_tlsext_status_ocsp_resp() failed");
    }
    return lua::ffi_ok;
}
