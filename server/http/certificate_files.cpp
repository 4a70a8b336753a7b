// Reading certificates with their keys, and the cache of those that were read.
#include "server/http/certificate_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstring>

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

struct BioFree {
    void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bio = std::unique_ptr<BIO, BioFree>;

Bio open_pem(Slice named) {
    if (named.starts_with("data:")) {
        named.remove_prefix(5);
        return Bio(BIO_new_mem_buf(named.data(), int(named.size())));
    }
    std::string path = Configuration::current().binder().full_path(named, true);
    return Bio(BIO_new_file(path.c_str(), "r"));
}

// OpenSSL asks for a key's password; never at a terminal.
int give_password(char* to, int room, int, void* argument) {
    auto* password = static_cast<const std::string*>(argument);
    if (!password || int(password->size()) > room) return -1;
    std::memcpy(to, password->data(), password->size());
    return int(password->size());
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

// Null, or the call that failed.
const char* CertificateWithKey::read_chain(BIO* from) {
    X509* next = PEM_read_bio_X509_AUX(from, nullptr, nullptr, nullptr);
    if (!next) return "PEM_read_bio_X509_AUX()";
    for (; next; next = PEM_read_bio_X509(from, nullptr, nullptr, nullptr)) chain_.push_back(next);
    unsigned long error = ERR_peek_last_error();
    bool at_end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
    if (!at_end) return "PEM_read_bio_X509()";
    ERR_clear_error();
    return nullptr;
}

const char* CertificateWithKey::read_key(BIO* from, const std::vector<std::string>& passwords) {
    size_t tries = std::max<size_t>(passwords.size(), 1);
    for (size_t i = 0; i < tries && !key_; ++i) {
        ERR_clear_error();
        static_cast<void>(BIO_reset(from));
        const std::string* password = i < passwords.size() ? &passwords[i] : nullptr;
        key_ = PEM_read_bio_PrivateKey(from, nullptr, give_password,
                                       const_cast<std::string*>(password));
    }
    return key_ ? nullptr : "PEM_read_bio_PrivateKey()";
}

core::Result<std::shared_ptr<const CertificateWithKey>> CertificateWithKey::read(
    Slice chain, Slice key, const std::vector<std::string>& passwords) {
    std::shared_ptr<CertificateWithKey> made(new CertificateWithKey);
    ERR_clear_error();
    Bio from = open_pem(chain);
    const char* call = from ? made->read_chain(from.get()) : "BIO_new_file()";
    if (call) return cannot_load("certificate", chain, call);
    from = open_pem(key);
    call = from ? made->read_key(from.get(), passwords) : "BIO_new_file()";
    if (call) return cannot_load("certificate key", key, call);
    return std::shared_ptr<const CertificateWithKey>(std::move(made));
}

CertificateWithKey::~CertificateWithKey() {
    for (X509* each : chain_) X509_free(each);
    EVP_PKEY_free(key_);
}

bool CertificateWithKey::use(SSL* ssl) const {
    ERR_clear_error();
    bool good = SSL_use_certificate(ssl, chain_[0]) == 1 && SSL_clear_chain_certs(ssl) == 1;
    for (size_t i = 1; good && i < chain_.size(); ++i) {
        good = SSL_add1_chain_cert(ssl, chain_[i]) == 1;
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
