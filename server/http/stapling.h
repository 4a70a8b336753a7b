// Stapling: the OCSP answers (RFC 6960) that a server hands out with its certificates: from a file,
// or asked of the responder by each worker as it starts and again before they are out of date. A
// handshake takes what is there and never waits.
//
// Made by modules/ssl_ocsp.cpp, one for a server's context; knows no directives.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/slice.h"
#include "server/http/ocsp_request.h"

struct ssl_ctx_st;
struct ssl_st;
struct x509_st;

namespace server {

struct X509Free {
    void operator()(x509_st* certificate) const;
};
using CertificatePtr = std::unique_ptr<x509_st, X509Free>;

class Stapling {
  public:
    struct Settings {
        std::string file;            // an answer in DER; empty: the responder is asked
        std::string responder;       // empty: the one that the certificate names
        bool verify = false;         // ssl_stapling_verify
    };

    // For the certificates of `context`, which owns it from now on. What cannot be stapled is left
    // out, and why is added to `warnings`.
    static core::Result<void> attach(ssl_ctx_st* context, const Settings& settings,
                                     std::vector<std::string>& warnings);
    static Stapling* of(ssl_ctx_st* context);    // null: none
    ~Stapling();

    // In a worker: begins to ask.
    void start(const OcspResolving& resolving);
    void stop();

  private:
    class Staple;
    Stapling();
    static int answer(ssl_st* ssl, void* self);

    std::vector<std::unique_ptr<Staple>> staples_;
};

}  // namespace server
