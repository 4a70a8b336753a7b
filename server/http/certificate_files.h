// Certificates that are named while the server runs (variables in ssl_certificate and
// proxy_ssl_certificate): read with their chain and key when they are first asked for, and kept as
// *_certificate_cache says.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "conf/directive.h"
#include "core/pem.h"
#include "core/result.h"
#include "core/slice.h"

struct evp_pkey_st;
struct ssl_st;

namespace server {

// *_certificate_cache: off, or max=N [inactive=TIME] [valid=TIME].
struct CertificateCache {
    int64_t most = 0;                    // 0: off
    int64_t inactive_s = 10, valid_s = 60;
};
conf::Result<void> parse_setting(CertificateCache& to, const conf::Line& line);

class CertificateWithKey {
  public:
    // "data:PEM", or paths, relative ones in the configuration's folder. The error is nginx's:
    // `cannot load certificate "…": BIO_new_file() failed (SSL: …)`.
    static core::Result<std::shared_ptr<const CertificateWithKey>> read(
        core::Slice chain, core::Slice key, const std::vector<std::string>& passwords);
    ~CertificateWithKey();
    CertificateWithKey(const CertificateWithKey&) = delete;
    CertificateWithKey& operator=(const CertificateWithKey&) = delete;

    // In addition to those of other kinds of key. False: OpenSSL's queue says why.
    bool use(ssl_st* ssl) const;

  private:
    CertificateWithKey() = default;

    std::vector<core::CertificatePtr> chain_;        // the owner's first
    evp_pkey_st* key_ = nullptr;
};

class CertificateFiles {
  public:
    core::Result<std::shared_ptr<const CertificateWithKey>> find(
        const CertificateCache& cache, core::Slice chain, core::Slice key,
        const std::vector<std::string>& passwords);

  private:
    struct Entry {
        std::shared_ptr<const CertificateWithKey> certificate;
        int64_t read_s, used_s;
    };
    std::unordered_map<std::string, Entry> entries_;
};

}  // namespace server
