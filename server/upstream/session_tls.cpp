// TLS to the upstream server, between connect() and the request.
#include <cerrno>

#include "core/clock.h"
#include "core/text.h"
#include "core/tls.h"
#include "server/upstream/session.h"
#include "server/upstream/tls.h"
#include "server/upstream/tls_scripts.h"

namespace server {

// The name that is sent and checked: as configured, as a script chose, or the upstream's.
core::Slice UpstreamSession::tls_host() {
    core::Slice name = decision_.host.empty() ? record_.group : decision_.host;
    if (settings_.tls_name.is_set) name = settings_.tls_name->evaluate(request_);
    if (name.starts_with('[')) return name.substr(1, name.find(']') - 1);
    return name.substr(0, name.find(':'));
}

void UpstreamSession::begin_tls() {
    at_ = At::handshaking;
    log_.action = "SSL handshaking to upstream";
    tls_name_ = tls_host();
    if (settings_.tls_server_name) record_.server_name = tls_name_;
    std::string key = peer_address().text();
    key.push_back(' ');
    key.append(tls_name_);
    // What a script said of a server, and to it, holds for its location alone.
    if (has_upstream_tls_scripts(*request_.location)) {
        key += core::format(" %p", static_cast<const void*>(request_.location));
    }
    auto session = settings_.tls->open(request_, settings_, connection_->stream.fd(), tls_name_,
                                       key);
    if (!session) {
        finish_try();
        leave_peer(TryEnd::passed);
        release_connection(false);
        return conclude(Verdict::reject(500));
    }
    connection_->stream.set_tls(std::move(session));
    handshake_ = UpstreamHandshake::begin(*this, request_, connection_->stream.tls()->native());
    timer_.set(timeout(settings_.connect_timeout->count, decision_.connect_ms));
    go_on_tls();
}

void UpstreamSession::go_on_tls() {
    core::TlsSession& session = *connection_->stream.tls();
    core::IoResult result = session.handshake();
    if (result.status == core::Io::again) return;
    if (result.status != core::Io::done) {
        const std::string& why = session.error_text();
        if (why.find("certificate verify failed") != std::string::npos) {
            LOG(log_, crit, 0, "SSL_do_handshake() failed%s", why.c_str());   // nginx's level
        } else if (!why.empty()) {
            LOG(log_, error, 0, "SSL_do_handshake() failed%s", why.c_str());
        } else if (result.status == core::Io::closed) {
            LOG(log_, error, 0, "peer closed connection in SSL handshake");
        } else {
            LOG(log_, error, result.error, "peer closed connection in SSL handshake");
        }
        return fail(NextUpstream::error);
    }
    bool passes = certificate_passes(session);
    handshake_.reset();
    if (!passes) return fail(NextUpstream::error);
    begin_request();
}

bool UpstreamSession::certificate_passes(core::TlsSession& session) {
    std::string wrong;
    if (handshake_ && handshake_->refused()) {
        wrong = "upstream SSL certificate was refused by proxy_ssl_verify_by_lua*";
    } else if (settings_.tls_verify) {
        wrong = UpstreamTls::check(session, tls_name_);
    }
    if (!wrong.empty()) LOG(log_, error, 0, "%s", wrong.c_str());
    return wrong.empty();
}

// A script has said what it had to say.
void UpstreamSession::handshake_answered() {
    log_.action = "SSL handshaking to upstream";
    go_on_tls();
}

}  // namespace server
