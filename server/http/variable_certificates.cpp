// Choosing certificates by variables. These are a request's, which there is none of yet: one that
// has nothing but its connection stands in for it.
#include "server/http/variable_certificates.h"

#include <openssl/ssl.h>

#include <cstring>

#include "core/tls.h"
#include "server/http/connection.h"
#include "server/http/exchange.h"
#include "server/http/request.h"
#include "server/http/server_tls.h"

namespace server {

namespace {

// Nobody answers.
class NoExchange final : public Exchange {
  public:
    void send_head(Request&) override {}
    void send_interim(Request&, int) override {}
    void send_body(Request&, core::Chain&&) override {}
    int64_t pending_bytes() const override { return 0; }
    void flush(Request&) override {}
    bool settle(Request&) override { return true; }
    void want_body(Request&, bool) override {}
    void request_done(Request&, bool) override {}
};

int slot() {
    static const int index = SSL_CTX_get_ex_new_index(
        0, nullptr, nullptr, nullptr, [](void*, void* it, CRYPTO_EX_DATA*, int, long, void*) {
            delete static_cast<VariableCertificates*>(it);
        });
    return index;
}

// A client's name that leads out of a folder of certificates is none.
bool is_harmless(const SSL* ssl) {
    const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    return !name || (name[0] != '.' && !std::strchr(name, '/'));
}

}  // namespace

void VariableCertificates::attach(SSL_CTX* context, Settings settings) {
    auto* made = new VariableCertificates(std::move(settings));
    SSL_CTX_set_ex_data(context, slot(), made);
    SSL_CTX_set_cert_cb(context, choose, made);
}

int VariableCertificates::choose(SSL* ssl, void* self) {
    if (SSL_get_certificate(ssl)) return 1;              // one that was set at run time
    Connection* connection = handshaking_connection(ssl);
    auto* session = static_cast<core::TlsSession*>(SSL_get_app_data(ssl));
    const VirtualServer* server = session ? negotiated_server(*session) : nullptr;
    if (!connection || !server) return 0;
    NoExchange exchange;
    Request* request =
        Request::create(exchange, *connection, const_cast<VirtualServer&>(*server));
    request->log = connection->log;
    bool used = static_cast<VariableCertificates*>(self)->use(ssl, *request);
    Request::destroy(request);
    return used ? 1 : 0;
}

bool VariableCertificates::use(SSL* ssl, Request& request) {
    if (!is_harmless(ssl)) {
        LOG(request.log, info, 0, "client sent invalid server name");
        return false;
    }
    for (const auto& [certificate, key] : settings_.named) {
        core::Slice chain_name = certificate.evaluate(request);
        auto found = files_.find(settings_.cache, chain_name, key.evaluate(request),
                                 settings_.passwords);
        if (!found) {
            LOG(request.log, error, 0, "%s", found.error().what.c_str());
            return false;
        }
        if ((*found)->use(ssl)) continue;
        LOG(request.log, error, 0, "cannot use certificate \"%.*s\"%s", int(chain_name.size()),
            chain_name.data(), core::take_tls_errors().c_str());
        return false;
    }
    return true;
}

}  // namespace server
