// Contexts, sessions and certificates for TLS to upstream servers.
#include "server/upstream/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "conf/binder.h"
#include "core/clock.h"
#include "core/text.h"
#include "core/tls.h"
#include "server/http/request.h"
#include "server/upstream/tls_scripts.h"

namespace server {

namespace {

using core::Error;
using core::Result;

constexpr size_t sessions_max = 1000;

// Where a session notes which sessions it may be resumed with.
int key_index() {
    static const int index =
        SSL_get_ex_new_index(0, nullptr, nullptr, nullptr,
                             [](void*, void* key, CRYPTO_EX_DATA*, int, long, void*) {
                                 delete static_cast<std::string*>(key);
                             });
    return index;
}

Result<std::vector<std::string>> read_passwords(const std::string& path) {
    std::ifstream file(path);
    if (!file) return Error{"cannot open \"" + path + "\""};
    std::vector<std::string> lines;
    for (std::string line; std::getline(file, line);) {
        if (!line.empty()) lines.push_back(line);
    }
    return lines;
}

void set_protocols(core::TlsContext& context, const conf::Choices<TlsProtocol>& wanted) {
    struct Known {
        TlsProtocol protocol;
        int version;
        uint64_t off;
    };
    constexpr Known known[] = {
        {TlsProtocol::tls1, TLS1_VERSION, SSL_OP_NO_TLSv1},
        {TlsProtocol::tls11, TLS1_1_VERSION, SSL_OP_NO_TLSv1_1},
        {TlsProtocol::tls12, TLS1_2_VERSION, SSL_OP_NO_TLSv1_2},
        {TlsProtocol::tls13, TLS1_3_VERSION, SSL_OP_NO_TLSv1_3},
    };
    int least = 0, most = 0;
    for (const Known& each : known) {
        if (!wanted.has(each.protocol)) {
            SSL_CTX_set_options(context.native(), each.off);
            continue;
        }
        if (!least) least = each.version;
        most = each.version;
    }
    context.set_protocols(least, most);
}

Result<void> add_revocations(SSL_CTX* context, const std::string& path) {
    X509_STORE* store = SSL_CTX_get_cert_store(context);
    X509_LOOKUP* lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    if (!lookup || X509_LOOKUP_load_file(lookup, path.c_str(), X509_FILETYPE_PEM) <= 0) {
        return Error{"X509_LOOKUP_load_file(\"" + path + "\") failed" + core::take_tls_errors()};
    }
    X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    return {};
}

Result<void> run_commands(SSL_CTX* context, const conf::Pairs& commands) {
    SSL_CONF_CTX* runner = SSL_CONF_CTX_new();
    SSL_CONF_CTX_set_flags(runner, SSL_CONF_FLAG_FILE | SSL_CONF_FLAG_CLIENT |
                                       SSL_CONF_FLAG_CERTIFICATE | SSL_CONF_FLAG_SHOW_ERRORS);
    SSL_CONF_CTX_set_ssl_ctx(runner, context);
    Result<void> done;
    for (const auto& [name, value] : commands.items) {
        if (SSL_CONF_cmd(runner, name.c_str(), value.c_str()) > 0) continue;
        done = Error{"SSL_CONF_cmd(\"" + name + "\", \"" + value + "\") failed" +
                     core::take_tls_errors()};
        break;
    }
    if (done) SSL_CONF_CTX_finish(runner);
    SSL_CONF_CTX_free(runner);
    return done;
}

// What a context depends on. Files may have changed since the last configuration.
std::string fingerprint(const UpstreamTlsSettings& settings) {
    std::string text = core::format(
        "%p %d %u %d %d", static_cast<void*>(&Configuration::current()),
        int(settings.tls_session_reuse), unsigned(settings.tls_protocols->bits),
        int(settings.tls_verify), int(settings.tls_verify_depth));
    for (core::Slice each : {core::Slice(*settings.tls_ciphers),
                             core::Slice(*settings.tls_trusted_certificate),
                             core::Slice(*settings.tls_crl),
                             core::Slice(*settings.tls_password_file),
                             settings.tls_certificate->source(),
                             settings.tls_certificate_key->source()}) {
        text.append("\n").append(each);
    }
    for (const auto& [name, value] : settings.tls_conf_command->items) {
        text.append("\n").append(name).append(" ").append(value);
    }
    return text;
}

std::string conf_path(const std::string& path, conf::Binder& binder) {
    return binder.full_path(path, true);
}

}  // namespace

Result<std::shared_ptr<UpstreamTls>> UpstreamTls::create(const UpstreamTlsSettings& settings,
                                                         const char* prefix,
                                                         conf::Binder& binder) {
    // Equal settings of one configuration are one context, and share their sessions.
    static std::unordered_map<std::string, std::weak_ptr<UpstreamTls>> known;
    std::weak_ptr<UpstreamTls>& place = known[fingerprint(settings)];
    if (auto same = place.lock()) return same;
    std::shared_ptr<UpstreamTls> made(new UpstreamTls);
    auto context = core::TlsContext::create(core::TlsContext::Role::client);
    if (!context) return context.take_error();
    made->context_ = std::move(*context);
    auto configured = made->configure(settings, prefix, binder);
    if (!configured) return configured.take_error();
    place = made;
    return made;
}

Result<void> UpstreamTls::configure(const UpstreamTlsSettings& settings, const char* prefix,
                                    conf::Binder& binder) {
    std::string name = prefix;
    set_protocols(*context_, *settings.tls_protocols);
    auto done = context_->set_ciphers(*settings.tls_ciphers);
    if (!done) return done;
    if (!settings.tls_password_file->empty()) {
        auto read = read_passwords(conf_path(*settings.tls_password_file, binder));
        if (!read) return read.take_error();
        passwords_ = std::move(*read);
    }
    core::Slice certificate = settings.tls_certificate->source();
    if (!certificate.empty()) {
        if (!settings.tls_certificate_key.is_set) {
            return Error{"no \"" + name + "_ssl_certificate_key\" is defined for certificate \"" +
                         std::string(certificate) + "\""};
        }
        if (settings.tls_certificate->is_constant() &&
            settings.tls_certificate_key->is_constant()) {
            done = context_->use_certificate_files(
                conf_path(std::string(certificate), binder),
                conf_path(std::string(settings.tls_certificate_key->source()), binder),
                passwords_);
            if (!done) return done;
        }
    }
    if (settings.tls_verify) {
        if (settings.tls_trusted_certificate->empty()) {
            return Error{"no " + name + "_ssl_trusted_certificate for " + name + "_ssl_verify"};
        }
        done = context_->trust_file(conf_path(*settings.tls_trusted_certificate, binder));
        if (!done) return done;
        SSL_CTX_set_verify_depth(context_->native(), settings.tls_verify_depth);
        if (!settings.tls_crl->empty()) {
            done = add_revocations(context_->native(), conf_path(*settings.tls_crl, binder));
            if (!done) return done;
        }
    }
    UpstreamHandshake::serve(context_->native());
    // Checked when the handshake is over, so that the log says what is wrong.
    SSL_CTX_set_verify(context_->native(), SSL_VERIFY_NONE, nullptr);
    if (settings.tls_session_reuse) {
        context_->on_new_session([this](core::TlsSession& session, ssl_session_st* resumable) {
            keep(session, resumable);
        });
    }
    return run_commands(context_->native(), *settings.tls_conf_command);
}

UpstreamTls::~UpstreamTls() {
    for (auto& [key, session] : sessions_) SSL_SESSION_free(session);
}

void UpstreamTls::keep(core::TlsSession& session, ssl_session_st* resumable) {
    auto* key = static_cast<std::string*>(SSL_get_ex_data(session.native(), key_index()));
    if (!key) return SSL_SESSION_free(resumable);
    if (sessions_.size() >= sessions_max && !sessions_.contains(*key)) {
        SSL_SESSION_free(sessions_.begin()->second);
        sessions_.erase(sessions_.begin());
    }
    ssl_session_st*& place = sessions_[*key];
    if (place) SSL_SESSION_free(place);
    place = resumable;
}

core::TlsSessionPtr UpstreamTls::open(Request& request, const UpstreamTlsSettings& settings, int fd,
                                      core::Slice name, const std::string& session_key) {
    core::TlsSessionPtr session = core::TlsSession::create(context_, fd);
    if (!session) {
        LOG(request.log, alert, 0, "SSL_new() failed%s", core::take_tls_errors().c_str());
        return nullptr;
    }
    if (settings.tls_server_name && !name.empty()) {
        auto set = session->set_server_name(std::string(name));
        if (!set) LOG(request.log, error, 0, "%s", set.error().what.c_str());
    }
    bool variable = settings.tls_certificate.is_set && settings.tls_certificate_key.is_set &&
                    !(settings.tls_certificate->is_constant() &&
                      settings.tls_certificate_key->is_constant());
    if (variable && !use_own_certificate(request, settings, *session)) return nullptr;
    if (settings.tls_session_reuse) {
        SSL_set_ex_data(session->native(), key_index(), new std::string(session_key));
        auto known = sessions_.find(session_key);
        if (known != sessions_.end()) session->resume(known->second);
    }
    return session;
}

core::TlsSessionPtr UpstreamTls::open(int fd, const std::string& name) {
    core::TlsSessionPtr session = core::TlsSession::create(context_, fd);
    if (session) (void)session->set_server_name(name);
    return session;
}

bool UpstreamTls::use_own_certificate(Request& request, const UpstreamTlsSettings& settings,
                                      core::TlsSession& session) {
    core::Slice certificate = settings.tls_certificate->evaluate(request);
    if (certificate.empty()) return true;
    core::Slice key = settings.tls_certificate_key->evaluate(request);
    auto own = certificates_.find(*settings.tls_certificate_cache, certificate, key, passwords_);
    if (!own) {
        LOG(request.log, error, 0, "%s", own.error().what.c_str());
        return false;
    }
    if ((*own)->use(session.native())) return true;
    LOG(request.log, error, 0, "cannot use certificate \"%.*s\"%s", int(certificate.size()),
        certificate.data(), core::take_tls_errors().c_str());
    return false;
}

std::string UpstreamTls::check(core::TlsSession& session, core::Slice name) {
    if (long result = session.verify_result(); result != X509_V_OK) {
        return core::format("upstream SSL certificate verify error: (%ld:%s)", result,
                            X509_verify_cert_error_string(result));
    }
    X509* certificate = SSL_get1_peer_certificate(session.native());
    std::string host(name);
    bool named = certificate && (X509_check_host(certificate, host.data(), host.size(), 0,
                                                 nullptr) == 1 ||
                                 X509_check_ip_asc(certificate, host.c_str(), 0) == 1);
    X509_free(certificate);
    return named ? std::string() : "upstream SSL certificate does not match \"" + host + "\"";
}

}  // namespace server
