// The $ssl_* variables: what a TLS connection was agreed on, and who the client is.
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "core/text.h"
#include "core/tls.h"
#include "server/http/client_status.h"
#include "server/http/connection.h"
#include "server/http/escape.h"
#include "server/http/request.h"
#include "server/module.h"

namespace server {

namespace {

using core::Slice;

SSL* ssl_of(Request& request) {
    core::TlsSession* session = request.connection.stream.tls();
    if (session) return session->native();
    return core::TlsHandle::awake(request.connection.detached_tls.get());
}

Value kept(Request& request, const std::string& text) {
    if (text.empty()) return Slice("", 0);
    return request.arena.copy(text);
}

// ---- the connection ----

std::string cipher_names(SSL* ssl) {
    std::string names;
    if (STACK_OF(SSL_CIPHER)* shared = SSL_get_client_ciphers(ssl)) {
        for (int i = 0; i < sk_SSL_CIPHER_num(shared); ++i) {
            if (!names.empty()) names += ':';
            names += SSL_CIPHER_get_name(sk_SSL_CIPHER_value(shared, i));
        }
    }
    return names;
}

// By OpenSSL's short name; of those it does not know the number (RFC 8446 4.2.7).
std::string group_name(int nid) {
    if (nid & TLSEXT_nid_unknown) return core::format("0x%04x", unsigned(nid & 0xffff));
    const char* name = OBJ_nid2sn(nid);
    return name ? name : "";
}

std::string group_names(SSL* ssl) {
    int count = int(SSL_get1_groups(ssl, nullptr));
    if (count <= 0) return {};
    std::string numbers(size_t(count) * sizeof(int), '\0'), names;
    auto* groups = reinterpret_cast<int*>(numbers.data());
    SSL_get1_groups(ssl, groups);
    for (int i = 0; i < count; ++i) {
        if (i) names += ':';
        names += group_name(groups[i]);
    }
    return names;
}

std::string hex(const unsigned char* bytes, size_t size) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string text;
    for (size_t i = 0; i < size; ++i) {
        text += digits[bytes[i] >> 4];
        text += digits[bytes[i] & 15];
    }
    return text;
}

std::string session_id(SSL* ssl) {
    unsigned size = 0;
    SSL_SESSION* session = SSL_get0_session(ssl);
    const unsigned char* id = session ? SSL_SESSION_get_id(session, &size) : nullptr;
    return id ? hex(id, size) : std::string();
}

std::string alpn(SSL* ssl) {
    const unsigned char* name = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ssl, &name, &size);
    return {reinterpret_cast<const char*>(name), size};
}

// The digest that the server's part of the handshake was signed with, and the client's.
std::string digest_name(int known, int digest) {
    const char* name = known == 1 ? OBJ_nid2sn(digest) : nullptr;
    return name ? name : "";
}

std::string own_signature(SSL* ssl) {
    int digest = 0;
    return digest_name(SSL_get_signature_nid(ssl, &digest), digest);
}

std::string client_signature(SSL* ssl) {
    int digest = 0;
    return digest_name(SSL_get_peer_signature_nid(ssl, &digest), digest);
}

using FromSsl = std::string (*)(SSL*);
constexpr FromSsl of_connection[] = {
    [](SSL* ssl) -> std::string { return SSL_get_version(ssl); },
    [](SSL* ssl) -> std::string {
        const char* name = SSL_get_cipher_name(ssl);
        return name ? name : "";
    },
    cipher_names,
    [](SSL* ssl) -> std::string {
        int nid = int(SSL_get_negotiated_group(ssl));
        return nid ? group_name(nid) : std::string();
    },
    group_names,
    session_id,
    [](SSL* ssl) -> std::string { return SSL_session_reused(ssl) ? "r" : "."; },
    [](SSL* ssl) -> std::string {
        const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
        return name ? name : "";
    },
    alpn,
    // $ssl_early_data: nothing but early data is known of the client so far.
    [](SSL* ssl) -> std::string { return SSL_is_init_finished(ssl) ? "" : "1"; },
    own_signature,
    client_signature,
};

Value get_of_connection(Request& request, Slice, uintptr_t index) {
    SSL* ssl = ssl_of(request);
    return ssl ? kept(request, of_connection[index](ssl)) : Value::none();
}

// ---- the client's certificate ----

struct BioFree {
    void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, BioFree>;

std::string text_of(BIO* bio) {
    char* bytes = nullptr;
    long size = BIO_get_mem_data(bio, &bytes);
    return size > 0 ? std::string(bytes, size_t(size)) : std::string();
}

// In PEM, without the last line end.
std::string pem(X509* certificate) {
    Bio to(BIO_new(BIO_s_mem()));
    if (!to || !PEM_write_bio_X509(to.get(), certificate)) return {};
    std::string text = text_of(to.get());
    if (text.ends_with('\n')) text.pop_back();
    return text;
}

// Every line but the first begins with a tab: so it can go into a header field.
std::string folded_pem(X509* certificate) {
    std::string folded;
    for (char c : pem(certificate)) {
        folded += c;
        if (c == '\n') folded += '\t';
    }
    return folded;
}

std::string name_text(const X509_NAME* name) {
    Bio to(BIO_new(BIO_s_mem()));
    if (!to || X509_NAME_print_ex(to.get(), name, 0, XN_FLAG_RFC2253) < 0) return {};
    return text_of(to.get());
}

std::string legacy_name(const X509_NAME* name) {
    char* line = X509_NAME_oneline(name, nullptr, 0);
    std::string text = line ? line : "";
    OPENSSL_free(line);
    return text;
}

std::string serial(X509* certificate) {
    Bio to(BIO_new(BIO_s_mem()));
    if (!to) return {};
    i2a_ASN1_INTEGER(to.get(), X509_get0_serialNumber(certificate));
    return text_of(to.get());
}

std::string fingerprint(X509* certificate) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (!X509_digest(certificate, EVP_sha1(), digest, &size)) return {};
    return hex(digest, size);
}

std::string time_text(const ASN1_TIME* time) {
    Bio to(BIO_new(BIO_s_mem()));
    if (!to || !ASN1_TIME_print(to.get(), time)) return {};
    return text_of(to.get());
}

// Days until the certificate ends; 0 when it has.
std::string days_left(X509* certificate) {
    int days = 0, seconds = 0;
    if (!ASN1_TIME_diff(&days, &seconds, nullptr, X509_get0_notAfter(certificate))) return {};
    return std::to_string(days < 0 || seconds < 0 ? 0 : days);
}

using FromCertificate = std::string (*)(X509*);
constexpr FromCertificate of_client[] = {
    folded_pem,
    pem,
    [](X509* certificate) { return name_text(X509_get_subject_name(certificate)); },
    [](X509* certificate) { return name_text(X509_get_issuer_name(certificate)); },
    [](X509* certificate) { return legacy_name(X509_get_subject_name(certificate)); },
    [](X509* certificate) { return legacy_name(X509_get_issuer_name(certificate)); },
    serial,
    fingerprint,
    [](X509* certificate) { return time_text(X509_get0_notBefore(certificate)); },
    [](X509* certificate) { return time_text(X509_get0_notAfter(certificate)); },
    days_left,
};

Value get_of_client(Request& request, Slice, uintptr_t index) {
    SSL* ssl = ssl_of(request);
    if (!ssl) return Value::none();
    X509* certificate = SSL_get0_peer_certificate(ssl);
    return certificate ? kept(request, of_client[index](certificate)) : Value(Slice("", 0));
}

Value get_escaped_certificate(Request& request, Slice, uintptr_t) {
    SSL* ssl = ssl_of(request);
    if (!ssl) return Value::none();
    X509* certificate = SSL_get0_peer_certificate(ssl);
    if (!certificate) return Slice("", 0);
    Slice text = request.arena.copy(pem(certificate));
    return escape(request.arena, text, Escape::uri_component);
}

Value get_client_verify(Request& request, Slice, uintptr_t) {
    core::TlsSession* session = request.connection.stream.tls();
    if (!session) return Value::none();
    if (!SSL_get0_peer_certificate(session->native())) return Slice("NONE");
    if (session->verify_result() != X509_V_OK) {
        return kept(request, "FAILED:" + session->verify_error());
    }
    if (const char* wrong = client_status_error(*session)) {
        return kept(request, std::string("FAILED:") + wrong);
    }
    return Slice("SUCCESS");
}

constexpr Variable variables[] = {
    {"ssl_protocol", get_of_connection, Variable::cacheable, 0},
    {"ssl_cipher", get_of_connection, Variable::cacheable, 1},
    {"ssl_ciphers", get_of_connection, Variable::cacheable, 2},
    {"ssl_curve", get_of_connection, Variable::cacheable, 3},
    {"ssl_curves", get_of_connection, Variable::cacheable, 4},
    {"ssl_session_id", get_of_connection, Variable::cacheable, 5},
    {"ssl_session_reused", get_of_connection, Variable::cacheable, 6},
    {"ssl_server_name", get_of_connection, Variable::cacheable, 7},
    {"ssl_alpn_protocol", get_of_connection, Variable::cacheable, 8},
    {"ssl_early_data", get_of_connection, Variable::cacheable, 9},
    {"ssl_sigalg", get_of_connection, Variable::cacheable, 10},
    {"ssl_client_sigalg", get_of_connection, Variable::cacheable, 11},
    {"ssl_client_cert", get_of_client, Variable::cacheable, 0},
    {"ssl_client_raw_cert", get_of_client, Variable::cacheable, 1},
    {"ssl_client_s_dn", get_of_client, Variable::cacheable, 2},
    {"ssl_client_i_dn", get_of_client, Variable::cacheable, 3},
    {"ssl_client_s_dn_legacy", get_of_client, Variable::cacheable, 4},
    {"ssl_client_i_dn_legacy", get_of_client, Variable::cacheable, 5},
    {"ssl_client_serial", get_of_client, Variable::cacheable, 6},
    {"ssl_client_fingerprint", get_of_client, Variable::cacheable, 7},
    {"ssl_client_v_start", get_of_client, Variable::cacheable, 8},
    {"ssl_client_v_end", get_of_client, Variable::cacheable, 9},
    {"ssl_client_v_remain", get_of_client, Variable::cacheable, 10},
    {"ssl_client_escaped_cert", get_escaped_certificate},
    {"ssl_client_verify", get_client_verify},
};

constinit const Module module_ssl_variables{
    .name = "ssl_variables",
    .variables = variables,
};
REGISTER_MODULE(module_ssl_variables);

}  // namespace

}  // namespace server
