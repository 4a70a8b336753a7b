// Reading certificates with their keys, and the cache of those that were read.
#include "server/http/certificate_files.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/clock.h"
#include "core/text.h"
#include "core/tls.h"
#include "server/config.h"

namespace server {

namespace {

using core::Error;
using core::Slice;

core::PemSource open_pem(Slice named) {
    if (named.starts_with("data:")) {
        named.remove_prefix(5);
        return core::open_pem_text(named);
    }
    return core::open_pem_file(Configuration::current().binder().full_path(named, true));
}

Error cannot_load(const char* what, Slice named, const char* call) {
    std::string shown(named.substr(0, named.starts_with("data:") ? 5 : Slice::npos));
    return Error{core::format("cannot load %s \"%s\": %s failed", what, shown.c_str(), call) +
                 core::take_tls_errors()};
}

}  // namespace

conf::Result<void> parse_setting(CertificateCache& to, const conf::Line& line) {
    for (size_t i = 0; i < line.count(); ++i) {
        Slice text = line.arg(i);
        size_t equals = text.find('=');
        Slice name = text.substr(0, equals);
        Slice value = equals == Slice::npos ? Slice{} : text.substr(equals + 1);
        auto seconds = conf::parse_time_s(value);
        auto number = core::parse_number(value);
        if (text == "off" && line.count() == 1) {
            to.most = 0;
        } else if (name == "max" && number && *number > 0) {
            to.most = int64_t(*number);
        } else if (name == "inactive" && seconds) {
            to.inactive_s = *seconds;
        } else if (name == "valid" && seconds) {
            to.valid_s = *seconds;
        } else {
            return conf::invalid_parameter(text);
        }
    }
    return {};
}

core::Result<std::shared_ptr<const CertificateWithKey>> CertificateWithKey::read(
    Slice chain, Slice key, const std::vector<std::string>& passwords) {
    std::shared_ptr<CertificateWithKey> made(new CertificateWithKey);
    ERR_clear_error();
    core::PemSource from = open_pem(chain);
    const char* call = from ? core::read_pem_chain(from.get(), made->chain_) : "BIO_new_file()";
    if (call) return cannot_load("certificate", chain, call);
    from = open_pem(key);
    call = from ? core::read_pem_key(from.get(), passwords, made->key_) : "BIO_new_file()";
    if (call) return cannot_load("certificate key", key, call);
    return std::shared_ptr<const CertificateWithKey>(std::move(made));
}

CertificateWithKey::~CertificateWithKey() { EVP_PKEY_free(key_); }

bool CertificateWithKey::use(SSL* ssl) const {
    ERR_clear_error();
    bool good = SSL_use_certificate(ssl, chain_[0].get()) == 1 && SSL_clear_chain_certs(ssl) == 1;
    for (size_t i = 1; good && i < chain_.size(); ++i) {
        good = SSL_add1_chain_cert(ssl, chain_[i].get()) == 1;
    }
    return good && SSL_use_PrivateKey(ssl, key_) == 1;
}

core::Result<std::shared_ptr<const CertificateWithKey>> CertificateFiles::find(
    const CertificateCache& cache, Slice chain, Slice key,
    const std::vector<std::string>& passwords) {
    int64_t now_s = core::Clock::seconds();
    std::string name = std::string(chain) + "\n" + std::string(key);
    if (auto known = entries_.find(name); known != entries_.end()) {
        Entry& entry = known->second;
        bool fresh =
            now_s - entry.read_s <= cache.valid_s && now_s - entry.used_s <= cache.inactive_s;
        entry.used_s = now_s;
        if (fresh) return entry.certificate;
        entries_.erase(known);
    }
    auto read = CertificateWithKey::read(chain, key, passwords);
    if (!read || cache.most == 0) return read;
    if (int64_t(entries_.size()) >= cache.most) {
        auto oldest = std::min_element(
            entries_.begin(), entries_.end(),
            [](const auto& a, const auto& b) { return a.second.used_s < b.second.used_s; });
        entries_.erase(oldest);
    }
    entries_.emplace(std::move(name), Entry{*read, now_s, now_s});
    return read;
}

}  // namespace server
