// From a 101 on: the head goes to the client, then the client's socket and the upstream's are tied
// together.
#include <cerrno>
#include <string>

#include "core/clock.h"
#include "server/http/connection.h"
#include "server/http/exchange.h"
#include "server/upstream/session.h"
#include "server/upstream/tunnel.h"

namespace server {

void UpstreamSession::begin_tunnel(core::Slice rest) {
    if (!protocol_.wants_tunnel()) {
        LOG(log_, error, 0, "upstream sent unexpected 101 response");
        return fail(NextUpstream::invalid_header);
    }
    Verdict verdict = protocol_.accept_head();
    request_.keep_alive = false;
    if (verdict.is(Verdict::passed)) verdict = request_.send_header();
    if (!verdict.is(Verdict::passed)) {
        finish_try();
        leave_peer(TryEnd::passed);
        release_connection(false);
        return conclude(verdict);
    }
    at_ = At::tunnel;
    log_.action = "proxying upgraded connection";
    head_ = request_.arena.copy(rest);
    timer_.cancel();
    request_.on_abort = [](Request&, void* self) {
        static_cast<UpstreamSession*>(self)->on_tunnel_end();
    };
    request_.on_abort_argument = this;
    request_.exchange->flush(request_);
    if (request_.exchange->pending_bytes() == 0) return tie();
    drain_.run = [](Request&, void* self) { static_cast<UpstreamSession*>(self)->tie(); };
    drain_.argument = this;
    request_.on_drained(drain_);
}

// The head is with the client: from here on its connection is a tunnel.
void UpstreamSession::tie() {
    if (at_ != At::tunnel) return;
    if (request_.client_gone) return on_tunnel_end();
    std::string early;
    tunnel_ = request_.arena.make<UpstreamTunnel>(*this, request_.connection.detach(early),
                                                  *connection_);
    core::Slice rest = head_;
    head_ = {};
    timer_.set(timeout(settings_.read_timeout->count, decision_.read_ms));
    if (!tunnel_->start(early, rest)) on_tunnel_end();
}

void UpstreamSession::on_tunnel_moved() {
    timer_.set(timeout(settings_.read_timeout->count, decision_.read_ms));
}

void UpstreamSession::on_tunnel_end() {
    if (at_ != At::tunnel) return;
    if (tunnel_) {
        state_->bytes_received += tunnel_->bytes_to_client();
        state_->bytes_sent += tunnel_->bytes_to_upstream();
        state_->response_bytes = tunnel_->bytes_to_client();
        request_.bytes_sent += tunnel_->bytes_to_client();
        request_.body_bytes_sent += tunnel_->bytes_to_client();
        tunnel_->stop();
    }
    finish_try();
    leave_peer(TryEnd::passed);
    release_connection(false);
    request_.cut();
    conclude(Verdict::finish());
}

}  // namespace server
