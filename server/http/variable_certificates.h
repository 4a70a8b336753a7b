// VariableCertificates: a server's certificates when variables name them (ssl_certificate
// /certs/$ssl_server_name.pem): evaluated in each full handshake, read as http/certificate_files
// has it. Made by modules/ssl.cpp; the context keeps it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "server/http/certificate_files.h"
#include "server/http/variables.h"

struct ssl_ctx_st;

namespace server {

class VariableCertificates {
  public:
    struct Settings {
        std::vector<std::pair<ComplexValue, ComplexValue>> named;     // certificate, key
        CertificateCache cache;
        std::vector<std::string> passwords;
    };

    // Handshakes with this context ask here from now on.
    static void attach(ssl_ctx_st* context, Settings settings);

  private:
    explicit VariableCertificates(Settings settings) : settings_(std::move(settings)) {}
    static int choose(ssl_st* ssl, void* self);
    bool use(ssl_st* ssl, Request& request);

    Settings settings_;
    CertificateFiles files_;
};

}  // namespace server
