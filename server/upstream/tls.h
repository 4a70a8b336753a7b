// UpstreamTls: how upstream servers are asked by TLS in a location (PREFIX_ssl_*): one context for
// all connections of equal settings, sessions kept for resumption, client certificates. The
// settings are part of a module's conf; the context is made when the configuration is read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "conf/directive.h"
#include "conf/values.h"
#include "core/result.h"
#include "core/slice.h"
#include "core/socket.h"
#include "server/http/certificate_files.h"
#include "server/http/variables.h"

struct ssl_session_st;

namespace core {
class TlsContext;
class TlsSession;
}

namespace server {

class Request;

enum class TlsProtocol : uint32_t {
    ssl2 = 1, ssl3 = 2, tls1 = 4, tls11 = 8, tls12 = 16, tls13 = 32,
};
inline constexpr conf::Choice<TlsProtocol> upstream_tls_protocols[] = {
    {"SSLv2", TlsProtocol::ssl2},    {"SSLv3", TlsProtocol::ssl3},
    {"TLSv1", TlsProtocol::tls1},    {"TLSv1.1", TlsProtocol::tls11},
    {"TLSv1.2", TlsProtocol::tls12}, {"TLSv1.3", TlsProtocol::tls13}};
constexpr const auto& choices(TlsProtocol) { return upstream_tls_protocols; }

class UpstreamTls;

struct UpstreamTlsSettings {
    template <class T> using Setting = conf::Setting<T>;

    Setting<bool> tls_session_reuse{true};
    Setting<conf::Choices<TlsProtocol>> tls_protocols{
        conf::Choices<TlsProtocol>(uint32_t(TlsProtocol::tls12) | uint32_t(TlsProtocol::tls13))};
    Setting<std::string> tls_ciphers{"DEFAULT"};
    Setting<ComplexValue> tls_name;
    Setting<bool> tls_server_name{false};
    Setting<bool> tls_verify{false};
    Setting<int> tls_verify_depth{1};
    Setting<std::string> tls_trusted_certificate;
    Setting<std::string> tls_crl;
    Setting<ComplexValue> tls_certificate, tls_certificate_key;
    Setting<CertificateCache> tls_certificate_cache;
    Setting<std::string> tls_password_file;
    Setting<conf::Pairs> tls_conf_command;
    std::shared_ptr<UpstreamTls> tls;    // null: nobody here asks by TLS
};

class UpstreamTls {
  public:
    // `prefix` is for messages ("proxy").
    static core::Result<std::shared_ptr<UpstreamTls>> create(const UpstreamTlsSettings& settings,
                                                             const char* prefix,
                                                             conf::Binder& binder);
    ~UpstreamTls();

    // A session for a connected socket. Null: logged.
    core::TlsSessionPtr open(Request& request, const UpstreamTlsSettings& settings, int fd,
                             core::Slice name, const std::string& session_key);
    // The same without a request (health checks): no certificate that variables name.
    core::TlsSessionPtr open(int fd, const std::string& name);
    // What of the server's certificate is wrong; empty: nothing. In nginx's words.
    static std::string check(core::TlsSession& session, core::Slice name);

  private:
    UpstreamTls() = default;
    core::Result<void> configure(const UpstreamTlsSettings& settings, const char* prefix,
                                 conf::Binder& binder);
    bool use_own_certificate(Request& request, const UpstreamTlsSettings& settings,
                             core::TlsSession& session);
    void keep(core::TlsSession& session, ssl_session_st* resumable);

    std::shared_ptr<core::TlsContext> context_;
    std::vector<std::string> passwords_;
    std::unordered_map<std::string, ssl_session_st*> sessions_;
    CertificateFiles certificates_;
};

}  // namespace server
