// Certificates set at run time through the control socket, by the name a client asks for. They win
// over those of the configuration, and Lua's over them. Asked by modules/ssl.cpp for each hello.
#pragma once

#include <memory>
#include <string>

#include "core/result.h"
#include "core/slice.h"

struct evp_pkey_st;
struct ssl_st;
struct stack_st_X509;
struct x509_st;

namespace server {

class RuntimeCertificate {
  public:
    // PEM: a certificate with those between it and its root, and its key. Fails when the two do not
    // belong together, or OpenSSL would not use them.
    static core::Result<std::shared_ptr<const RuntimeCertificate>> parse(core::Slice chain,
                                                                         core::Slice key);
    ~RuntimeCertificate();
    RuntimeCertificate(const RuntimeCertificate&) = delete;
    RuntimeCertificate& operator=(const RuntimeCertificate&) = delete;

    // The session shows this one and no other. It keeps what it needs.
    bool use(ssl_st* ssl) const;
    x509_st* leaf() const { return leaf_; }

  private:
    RuntimeCertificate() = default;

    x509_st* leaf_ = nullptr;
    stack_st_X509* chain_ = nullptr;
    evp_pkey_st* key_ = nullptr;
};

// For the name of a hello, in lower case; null: none was set.
const RuntimeCertificate* find_runtime_certificate(core::Slice name);

}  // namespace server
