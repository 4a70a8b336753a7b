// certificates: what servers show, changed at run time through the control socket.
//
//   /v1/certificates                     what is known, without keys
//   /v1/certificates/NAME                GET  PUT {"certificate":PEM,"key":PEM}  DELETE
//
// NAME: as in server_name: exact, "*.example.com", ".example.com" or "www.example.*".
#include "server/http/runtime_certificates.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <simdjson.h>

#include "core/json_writer.h"
#include "core/pem.h"
#include "core/text.h"
#include "core/tls.h"
#include "server/config.h"
#include "server/control/json.h"
#include "server/control/resource.h"
#include "server/control/state.h"
#include "server/http/host_map.h"
#include "server/http/server_tls.h"

namespace server {

namespace {

using CertificatePtr = std::shared_ptr<const RuntimeCertificate>;

core::Error failed(const char* what) { return core::Error{what + core::take_tls_errors()}; }

}  // namespace

core::Result<CertificatePtr> RuntimeCertificate::parse(core::Slice chain, core::Slice key) {
    ERR_clear_error();
    std::shared_ptr<RuntimeCertificate> made(new RuntimeCertificate);
    std::vector<core::CertificatePtr> read;
    core::PemSource from = core::open_pem_text(chain);
    const char* call = from ? core::read_pem_chain(from.get(), read) : "";
    if (read.empty()) return failed("the certificate cannot be read");
    if (call) return failed("a certificate of the chain cannot be read");
    made->leaf_ = read[0].release();
    made->chain_ = sk_X509_new_null();
    for (size_t i = 1; i < read.size(); ++i) {
        if (!made->chain_ || !sk_X509_push(made->chain_, read[i].get())) return failed("no memory");
        static_cast<void>(read[i].release());
    }
    from = core::open_pem_text(key);
    if (from) core::read_pem_key(from.get(), {}, made->key_);
    if (!made->key_) return failed("the key cannot be read");
    if (X509_check_private_key(made->leaf_, made->key_) != 1) {
        return failed("the key does not belong to the certificate");
    }
    std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> trial(SSL_CTX_new(TLS_server_method()),
                                                            SSL_CTX_free);
    if (!trial || SSL_CTX_use_cert_and_key(trial.get(), made->leaf_, made->key_, made->chain_,
                                           1) != 1) {
        return failed("the certificate cannot be used");
    }
    return CertificatePtr(std::move(made));
}

RuntimeCertificate::~RuntimeCertificate() {
    X509_free(leaf_);
    sk_X509_pop_free(chain_, X509_free);
    EVP_PKEY_free(key_);
}

bool RuntimeCertificate::use(SSL* ssl) const {
    SSL_certs_clear(ssl);
    return SSL_use_cert_and_key(ssl, leaf_, key_, chain_, 1) == 1;
}

namespace {

using Path = std::vector<std::string>;

class Certificates final : public ControlResource {
  public:
    Certificates() : ControlResource("certificates") {}

    ControlOutcome show(const Path& path, const ControlState& state,
                        core::JsonWriter& to) const override;
    ControlOutcome plan(const ControlCall& call, ControlDraft& draft) const override;
    core::Result<StagedPtr> stage(const ControlItem& item, const ControlPlace& place) override;
    void configured(Configuration&) override { names = {}; }
    std::string object_of(const Path& path) const override {
        return encode_segment(core::to_lower(path[0]));
    }

    HostMap<CertificatePtr> names;
};

Certificates certificates;

struct StagedCertificate : StagedChange {
    std::string name;
    CertificatePtr certificate;            // null: removed
    void commit() override {
        if (certificate) certificates.names.set(name, std::move(certificate), true);
        else certificates.names.erase(name, true);
    }
};

core::Result<CertificatePtr> parse_value(const std::string& json) {
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    std::string chain, key;
    if (parser.parse(json).get(root)) return core::Error{"an object is expected"};
    auto read = read_json(root, {{"certificate", &chain}, {"key", &key}});
    if (!read) return read.take_error();
    if (chain.empty() || key.empty()) {
        return core::Error{"\"certificate\" or \"key\" is missing"};
    }
    return RuntimeCertificate::parse(chain, key);
}

// ---- what is shown ----

std::string time_text(const ASN1_TIME* time) {
    tm parts{};
    char room[32];
    if (!time || ASN1_TIME_to_tm(time, &parts) != 1) return "";
    return {room, std::strftime(room, sizeof room, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

std::string name_text(const X509_NAME* name) {
    core::PemSource to(BIO_new(BIO_s_mem()));
    if (!to || !name) return "";
    X509_NAME_print_ex(to.get(), name, 0, XN_FLAG_RFC2253 & ~ASN1_STRFLGS_ESC_MSB);
    char* text = nullptr;
    long size = BIO_get_mem_data(to.get(), &text);
    return {text, size_t(size)};
}

void write_alternatives(core::JsonWriter& to, X509* certificate) {
    auto* names = static_cast<GENERAL_NAMES*>(
        X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
    to.key("names").begin_array();
    for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
        const GENERAL_NAME* name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_DNS) continue;
        const ASN1_IA5STRING* text = name->d.dNSName;
        to.value(core::Slice(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                             size_t(ASN1_STRING_length(text))));
    }
    to.end_array();
    GENERAL_NAMES_free(names);
}

void write_certificate(core::JsonWriter& to, core::Slice name, X509* certificate,
                       const char* source) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned digest_size = 0;
    X509_digest(certificate, EVP_sha256(), digest, &digest_size);
    std::string fingerprint;
    core::append_hex(fingerprint, {reinterpret_cast<char*>(digest), digest_size});
    EVP_PKEY* key = X509_get0_pubkey(certificate);
    const char* type = key ? EVP_PKEY_get0_type_name(key) : nullptr;
    to.begin_object().member("name", name).member("from", source);
    to.member("subject", name_text(X509_get_subject_name(certificate)));
    to.member("issuer", name_text(X509_get_issuer_name(certificate)));
    write_alternatives(to, certificate);
    to.member("not_before", time_text(X509_get0_notBefore(certificate)));
    to.member("not_after", time_text(X509_get0_notAfter(certificate)));
    to.member("expired", X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0);
    to.member("key", core::format("%s %d", type ? type : "?", key ? EVP_PKEY_get_bits(key) : 0));
    to.member("sha256", fingerprint).end_object();
}

ControlOutcome Certificates::show(const Path& path, const ControlState& state,
                                  core::JsonWriter& to) const {
    if (path.size() > 1) return not_found("there is nothing at this path");
    if (path.size() == 1) {
        std::string name = core::to_lower(path[0]);
        const auto* known = names.find_added(name, true);
        if (!known) return not_found("no certificate was set for \"" + name + "\"");
        write_certificate(to, name, (*known)->leaf(), "run time");
        return {};
    }
    to.begin_object().key("certificates").begin_array();
    if (const ControlState::Items* items = state.of(name())) {
        for (const auto& [key, value] : *items) {
            auto name = decode_segment(key);
            const auto* known = name ? names.find_added(*name, true) : nullptr;
            if (known) write_certificate(to, *name, (*known)->leaf(), "run time");
        }
    }
    for (const auto& server : Configuration::current().servers) {
        SSL_CTX* context = server->tls && server->tls->context ? server->tls->context->native()
                                                               : nullptr;
        X509* shown = context ? SSL_CTX_get0_certificate(context) : nullptr;
        if (shown) write_certificate(to, server->name(), shown, "configuration");
    }
    to.end_array().end_object();
    return {};
}

// ---- changes ----

ControlOutcome Certificates::plan(const ControlCall& call, ControlDraft& draft) const {
    if (call.path.empty()) return wrong_method();
    if (call.path.size() > 1) return not_found("there is nothing at this path");
    std::string name = core::to_lower(call.path[0]);
    std::string key = encode_segment(name);
    if (call.method == "DELETE") {
        if (!draft.find(key)) return not_found("no certificate was set for \"" + name + "\"");
        draft.set(key, std::nullopt);
        return {};
    }
    if (call.method != "PUT") return wrong_method();
    if (!HostMap<CertificatePtr>::is_valid(name, true)) {
        return invalid("invalid server name \"" + name + "\"");
    }
    // ".a.test" and "*.a.test" have one place in the table: whichever goes takes the other along.
    std::string twin = HostMap<CertificatePtr>::twin(name);
    if (!twin.empty() && draft.find(encode_segment(twin))) {
        return conflict("\"" + twin + "\" has a certificate, which is for the same names");
    }
    auto parsed = parse_value(call.body);
    if (!parsed) return invalid(parsed.error().what);
    draft.set(key, call.body);
    return {};
}

core::Result<StagedPtr> Certificates::stage(const ControlItem& item, const ControlPlace&) {
    auto name = decode_segment(item.key);
    if (!name) return core::Error{"no valid name"};
    auto staged = std::make_unique<StagedCertificate>();
    staged->name = std::move(*name);
    if (item.value) {
        auto parsed = parse_value(*item.value);
        if (!parsed) return parsed.take_error();
        staged->certificate = std::move(*parsed);
    }
    return StagedPtr(std::move(staged));
}

}  // namespace

const RuntimeCertificate* find_runtime_certificate(core::Slice name) {
    if (certificates.names.empty() || name.empty()) return nullptr;
    const CertificatePtr* found = certificates.names.find(name);
    return found ? found->get() : nullptr;
}

}  // namespace server
