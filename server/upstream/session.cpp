// A session's course: connecting, writing the request, and the ends it may come to.
#include "server/upstream/session.h"

#include <cerrno>

#include "core/clock.h"
#include "core/resolver.h"
#include "server/http/connection.h"
#include "server/http/exchange.h"
#include "server/upstream/socket_setup.h"
#include "server/upstream/tls_scripts.h"
#include "server/upstream/tunnel.h"
#include "server/worker.h"

namespace server {

UpstreamSession::UpstreamSession(Request& request, const UpstreamSettings& settings,
                                 UpstreamProtocol& protocol)
    : request_(request),
      settings_(settings),
      protocol_(protocol),
      record_(upstream_record(request)),
      log_(request.log),
      timer_(on_timeout, this),
      rate_timer_([](void* it) { static_cast<UpstreamSession*>(it)->on_relay_room(); }, this),
      relay_(request, settings, *this) {
    relay_.set_buffering(settings.buffering);
    if (record_.first) add_upstream_state(request);      // a mark between two exchanges
    record_.session = this;
}

UpstreamSession::~UpstreamSession() {
    tunnel_ = nullptr;         // younger than this in the request's arena: gone already
    stop();
    if (record_.session == this) record_.session = nullptr;
}

void UpstreamSession::describe(core::Slice scheme, core::Slice uri) {
    record_.scheme = scheme;
    record_.uri = uri;
}

int64_t UpstreamSession::timeout(int64_t configured, int64_t chosen) const {
    return chosen >= 0 ? chosen : configured;
}

// ---- connecting ----

void UpstreamSession::connect() {
    const core::Address& address = peer_address();
    record_.peer = state_->peer;
    log_.action = "connecting to upstream";
    request_sent_ = body_sent_ = false;
    if (group_ && !group_->implicit) {
        const void* tag = group_->keepalive_local ? &settings_ : nullptr;
        connection_ = group_->pool.take(address, identity(), tag);
    }
    cached_ = connection_ != nullptr;
    if (cached_) {
        connection_->user = this;
        state_->connect_ms = 0;
        return begin_request();
    }
    at_ = At::connecting;
    if (!open(address)) return;
    timer_.cancel();
    timer_.set(timeout(settings_.connect_timeout->count, decision_.connect_ms));
}

bool UpstreamSession::open(const core::Address& address) {
    auto fd = open_upstream_socket(request_, settings_, decision_.local_address, address);
    if (!fd) {
        int error = errno;
        not_opened(fd.error().fault, error, address);
        return false;
    }
    connection_ = UpstreamConnection::Ptr(new UpstreamConnection(address));
    connection_->stream = core::Stream(std::move(*fd));
    connection_->user = this;
    connection_->owner_tag = &settings_;
    connection_->identity = identity();
    auto watching = connection_->watch.start(connection_->stream.fd(), *connection_);
    if (watching) return true;
    LOG(log_, alert, 0, "%s", watching.error().what.c_str());
    connection_.reset();
    fail(NextUpstream::error);
    return false;
}

namespace {

// Failures that say something about the network, not about us.
bool is_ordinary(int error) {
    switch (error) {
        case ECONNREFUSED: case ECONNRESET: case ENETDOWN: case ENETUNREACH: case EHOSTDOWN:
        case EHOSTUNREACH: return true;
        default: return false;
    }
}

}  // namespace

void UpstreamSession::not_opened(core::Fault fault, int error, const core::Address& address) {
    if (fault == core::Fault::ours) {
        core::Slice local = decision_.local_address;
        if (local.empty()) local = settings_.bind->address.evaluate(request_);
        LOG(log_, crit, error, "bind(%.*s) failed", int(local.size()), local.data());
        finish_try();
        leave_peer(TryEnd::passed);
        return conclude(Verdict::reject(500));
    }
    std::string text = address.text();
    if (is_ordinary(error)) {
        LOG(log_, error, error, "connect() to %s failed", text.c_str());
    } else {
        LOG(log_, crit, error, "connect() to %s failed", text.c_str());
    }
    fail(NextUpstream::error);
}

void UpstreamSession::on_upstream_io(uint8_t ready) {
    if (ready & core::ready_read) connection_->readable = true;
    if (ready & core::ready_hangup) connection_->hung_up = true;
    switch (at_) {
        case At::connecting:
            if (ready & core::ready_write) connected();
            return;
        case At::tunnel: return tunnel_ ? tunnel_->on_upstream_io(ready) : void();
        case At::handshaking: return go_on_tls();
        case At::waiting:
        case At::reading: break;
        case At::idle:
        case At::resolving:
        case At::choosing:
        case At::queued:
        case At::relaying:
        case At::over: return;
    }
    if (tls_) connection_->readable = true;      // a read may have waited for a write
    if ((ready & core::ready_write) && !out_.empty()) send();
    if ((at_ == At::waiting || at_ == At::reading) && connection_->readable) receive();
}

void UpstreamSession::connected() {
    if (int error = core::socket_error(connection_->stream.fd())) {
        LOG(log_, error, error, "connect() failed");
        return fail(NextUpstream::error);
    }
    state_->connect_ms = core::Clock::monotonic_ms() - try_ms_;
    if (tls_) return begin_tls();
    begin_request();
}

// ---- writing ----

void UpstreamSession::begin_request() {
    at_ = At::waiting;
    if (!cached_) clock_.connected();
    log_.action = "sending request to upstream";
    ++connection_->requests;
    out_.clear();
    if (!protocol_.make_request(out_)) {
        release_connection(false);
        leave_peer(TryEnd::passed);
        return conclude(Verdict::reject(500));
    }
    send();
    if (at_ == At::waiting && connection_->readable && cached_ == false) receive();
}

void UpstreamSession::send() {
    core::IoResult result = connection_->stream.write(out_);
    state_->bytes_sent += result.bytes;
    request_sent_ = true;
    if (result.status == core::Io::failed || result.status == core::Io::closed) {
        // The server may have answered before it stopped listening: that answer counts.
        out_.clear();
        streams_body_ = false;
        connection_->readable = true;
        protocol_gave_up_ = true;
        return receive();
    }
    if (!out_.empty()) {
        timer_.set(timeout(settings_.send_timeout->count, decision_.send_ms));
        return;
    }
    if (streams_body_) return pump_body(Verdict::pass());
    sent();
}

void UpstreamSession::sent() {
    body_sent_ = true;
    if (at_ == At::waiting) log_.action = "reading response header from upstream";
    timer_.set(timeout(settings_.read_timeout->count, decision_.read_ms));
}

void UpstreamSession::body_arrived(Request&, void* self, Verdict verdict) {
    auto& it = *static_cast<UpstreamSession*>(self);
    it.reads_body_ = false;
    it.pump_body(verdict);
}

// A request body that is passed on as it comes: the next piece is asked for when the last is gone.
void UpstreamSession::pump_body(Verdict verdict) {
    RequestBody& body = request_.body;
    while (at_ == At::waiting || at_ == At::reading) {
        if (verdict.is(Verdict::rejected)) {
            release_connection(false);
            leave_peer(TryEnd::passed);
            state_->status = verdict.status;
            return conclude(verdict);
        }
        if (reads_body_ || !out_.empty()) return;
        verdict = body.read_unbuffered(request_, body_arrived, this);
        if (verdict.is(Verdict::suspended)) {
            reads_body_ = true;
            timer_.cancel();
            return;
        }
        if (verdict.is(Verdict::rejected)) continue;
        core::Chain piece = body.take_pending();
        bool last = body.received_all();
        if (last) streams_body_ = false;
        protocol_.frame_body(piece, last);
        out_.append(std::move(piece));
        if (out_.empty() && last) return sent();
        if (!out_.empty()) return send();
    }
}

// ---- the ends ----

namespace {

int status_of(NextUpstream what) {
    switch (what) {
        case NextUpstream::timeout:
        case NextUpstream::http_504: return 504;
        case NextUpstream::http_500: return 500;
        case NextUpstream::http_503: return 503;
        case NextUpstream::http_403: return 403;
        case NextUpstream::http_404: return 404;
        case NextUpstream::http_429: return 429;
        default: return 502;
    }
}

bool is_unsafe_to_repeat(const Request& request) {
    return request.method == Method::post || request.method == Method::lock ||
           request.method == Method::patch;
}

}  // namespace

// This try has failed: the next server is asked, if there is one and the request may be repeated.
void UpstreamSession::fail(NextUpstream what, int) {
    bool answered = what == NextUpstream::http_403 || what == NextUpstream::http_404;
    finish_try();
    if (what == NextUpstream::timeout) LOG(log_, error, ETIMEDOUT, "upstream timed out");
    leave_peer(answered ? TryEnd::next : TryEnd::failed);
    // A kept connection that turns out dead costs no try; scripts count for themselves.
    bool scripted = group_ && group_->chooser;
    if (cached_ && what == NextUpstream::error && !scripted) ++choice_.tries;
    release_connection(false);
    int status = status_of(what);
    state_->status = status;
    last_status_ = status;
    if (request_.client_gone) return conclude(Verdict::reject(status_client_closed));
    if (choice_.tries <= 0 || !may_repeat(what)) return conclude(Verdict::reject(status));
    next_try();
}

bool UpstreamSession::may_repeat(NextUpstream what) const {
    const auto& allowed = *settings_.next_upstream;
    if (!allowed.has(what)) return false;
    if (request_sent_ && is_unsafe_to_repeat(request_) &&
        !allowed.has(NextUpstream::non_idempotent)) {
        return false;
    }
    if (request_sent_ && passes_body_) return false;
    int64_t limit = settings_.next_timeout->count;
    return !limit || core::Clock::monotonic_ms() - started_ms_ < limit;
}

void UpstreamSession::finish_try() {
    if (state_->response_ms < 0) state_->response_ms = core::Clock::monotonic_ms() - try_ms_;
}

void UpstreamSession::release_connection(bool keep) {
    timer_.cancel();
    handshake_.reset();
    out_.clear();
    if (!connection_) return;
    bool may_keep = keep && group_ && !group_->implicit && body_sent_ && !protocol_gave_up_ &&
                    !request_.connection.worker.leaving();
    if (!may_keep) return connection_.reset();
    ConnectionPool::Limits limits = group_->keepalive;
    if (decision_.keepalive) {
        limits.connections = group_->script_pool ? group_->script_pool : 32;
        limits.idle_ms = decision_.keepalive_idle_ms;
        limits.requests = decision_.keepalive_requests;
        if (limits.requests == 0) limits.requests = UINT32_MAX;
    }
    group_->pool.keep(std::move(connection_), limits);
}

void UpstreamSession::conclude(Verdict verdict) {
    if (at_ == At::over) return;
    at_ = At::over;
    timer_.cancel();
    rate_timer_.cancel();
    record_.active = false;
    log_.action = "sending to client";
    if (request_.on_abort_argument == this) request_.on_abort = nullptr;
    if (starting_) {
        early_ = verdict;
        return;
    }
    request_.resume(verdict);
}

void UpstreamSession::client_left() {
    if (at_ == At::over) return;
    LOG(log_, info, 0, "client prematurely closed connection");
    if (state_) {
        finish_try();
        if (!state_->status) state_->status = status_client_closed;
    }
    release_connection(false);
    leave_peer(TryEnd::passed);
    conclude(Verdict::reject(status_client_closed));
}

void UpstreamSession::stop() {
    if (at_ == At::over && !connection_ && !choice_.table) return;
    at_ = At::over;
    timer_.cancel();
    rate_timer_.cancel();
    query_.reset();
    if (linked()) leave_queue();
    if (tunnel_) tunnel_->stop();
    handshake_.reset();
    connection_.reset();
    leave_peer(TryEnd::passed);
    drop_table();
    record_.active = false;
    if (reads_body_) request_.body.forget_callback();
    reads_body_ = false;
    if (request_.on_abort_argument == this) request_.on_abort = nullptr;
}

void UpstreamSession::on_timeout(void* self) {
    auto& it = *static_cast<UpstreamSession*>(self);
    switch (it.at_) {
        case At::connecting:
        case At::handshaking:
        case At::waiting: return it.fail(NextUpstream::timeout);
        case At::reading:
            LOG(it.log_, error, ETIMEDOUT, "upstream timed out");
            return it.break_off();
        case At::queued: return it.queue_too_long();
        case At::tunnel:
            LOG(it.log_, error, ETIMEDOUT, "upstream timed out");
            return it.on_tunnel_end();
        case At::idle:
        case At::resolving:
        case At::choosing:
        case At::relaying:
        case At::over: return;
    }
}

}  // namespace server
