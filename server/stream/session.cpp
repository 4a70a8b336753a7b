// The life of a session. Wording and levels of what is logged are nginx's.
#include "server/stream/session.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/clock.h"
#include "core/tls.h"
#include "server/config.h"
#include "server/http/proxy_header.h"
#include "server/http/router.h"
#include "server/http/server_tls.h"
#include "server/stream/blocks.h"
#include "server/worker.h"

namespace server {

namespace {

// For a client that does not take the text it is told.
constexpr int64_t telling_ms = 60000;

// What may happen to any server is an error; the rest (no such file, no permission) is worse.
bool is_usual(int error) {
    return error == ECONNREFUSED || error == EAGAIN || error == ECONNRESET || error == ENETDOWN ||
           error == ENETUNREACH || error == EHOSTDOWN || error == EHOSTUNREACH ||
           error == ETIMEDOUT;
}

}  // namespace

void StreamSession::accept(Worker& worker, ListenAddress& listen, core::Fd fd,
                           const core::Address& peer) {
    auto* session = new StreamSession(worker, listen, std::move(fd), peer);
    session->begin();
}

StreamSession::StreamSession(Worker& by, ListenAddress& on, core::Fd fd, const core::Address& from)
    : Connection(by, on, std::move(fd), from),
      conf_(*on.stream->conf),
      state_(on.ssl ? State::handshake : State::connecting),
      timer_(on_timeout, this) {
    log.describe = nullptr;
    LOG(log, info, 0, "client %s connected to %s", from.text().c_str(),
        listen.address.text().c_str());
    log.describe = describe;
    log.subject = this;
    log.action = "initializing session";
}

StreamSession::~StreamSession() {
    if (choice_.table) target_->store.drop(choice_.table);
}

void StreamSession::describe(const void* subject, core::LogLine& line) {
    const auto& it = *static_cast<const StreamSession*>(subject);
    line.append(", client: ");
    line.append(it.peer.ip_text());
    line.append(", server: ");
    line.append(it.listen.address.text());
    if (!it.target_) return;
    if (!it.upstream_name_.empty()) line.format(", upstream: \"%s\"", it.upstream_name_.c_str());
    line.append(", ");
    UpstreamTunnel::Counts counts = it.tunnel_ ? it.tunnel_->counts() : UpstreamTunnel::Counts{};
    line.format("bytes from/to client:%lld/%lld, bytes from/to upstream:%lld/%lld",
                counts.from_client, counts.to_client, counts.from_upstream, counts.to_upstream);
}

void StreamSession::begin() {
    if (auto started = watch.start(stream.fd(), *this); !started) {
        LOG(log, alert, 0, "%s", started.error().what.c_str());
        return close();
    }
    if (!listen.ssl) return run_handler();
    if (!begin_tls()) close();
}

bool StreamSession::begin_tls() {
    log.action = "SSL handshaking";
    auto session = core::TlsSession::create(listen.stream->tls->context, stream.fd());
    if (!session) return false;
    stream.set_tls(std::move(session));
    tls = true;
    timer_.set(conf_.handshake_timeout->count);
    return true;
}

void StreamSession::on_io(uint8_t) {
    if (state_ == State::handshake) return shake_hands();
    if (state_ == State::telling) tell();
}

void StreamSession::shake_hands() {
    core::TlsSession& session = *stream.tls();
    core::IoResult result = session.handshake();
    switch (result.status) {
    case core::Io::again: return;
    case core::Io::done:
        timer_.cancel();
        if (is_acceptable(session)) return run_handler();
        break;
    case core::Io::closed:
        LOG(log, info, 0, "peer closed connection in SSL handshake");
        break;
    case core::Io::failed:
        // What a client does wrong is its affair.
        if (result.error == EPROTO) {
            LOG(log, info, 0, "SSL_do_handshake() failed%s", session.error_text().c_str());
        } else {
            LOG(log, info, result.error, "SSL_do_handshake() failed");
        }
        break;
    }
    close();
}

bool StreamSession::is_acceptable(const core::TlsSession& session) {
    switch (judge_client(session, *listen.stream->tls)) {
    case ClientCertificate::good: return true;
    case ClientCertificate::refused:
        LOG(log, info, 0, "client SSL certificate verify error: (%ld:%s)", session.verify_result(),
            session.verify_error().c_str());
        return false;
    case ClientCertificate::missing:
        LOG(log, info, 0, "client sent no required SSL certificate");
        return false;
    }
    return false;
}

void StreamSession::run_handler() {
    if (conf_.handler == StreamHandler::proxy) return begin_proxy();
    state_ = State::telling;
    log.action = "returning text";
    text_.add(conf_.text);
    timer_.set(telling_ms);
    tell();
}

void StreamSession::tell() {
    core::IoResult sent = stream.write(text_);
    if (sent.status == core::Io::failed) LOG(log, info, sent.error, "send() failed");
    if (sent.status != core::Io::again) close();
}

// ---- the way to a server ----

void StreamSession::begin_proxy() {
    target_ = conf_.target;
    state_ = State::connecting;
    log.action = "connecting to upstream";
    PeerTable& table = *target_->table;
    ++table.references;
    choice_.table = &table;
    choice_.list = &table.primary;
    choice_.method = target_->least_conn ? BalanceMethod::least_conn : BalanceMethod::round_robin;
    choice_.tries = table.tries();
    tried_.assign(std::max(Choice::words(table), 1u), 0);
    choice_.tried = tried_.data();
    next_try();
}

void StreamSession::next_try() {
    const Peer* peer = choose(choice_, target_->store);
    if (peer) {
        upstream_name_ = peer->name;
        return connect(*peer);
    }
    upstream_name_ = target_->name;
    LOG(log, error, 0, "no live upstreams");
    close();
}

void StreamSession::connect(const Peer& peer) {
    auto fd = core::connect_to(peer.address);
    if (!fd) {
        int error = errno;
        if (is_usual(error)) {
            LOG(log, error, error, "connect() to %s failed", upstream_name_.c_str());
        } else {
            LOG(log, crit, error, "connect() to %s failed", upstream_name_.c_str());
        }
        return try_failed();
    }
    int on = 1;
    if (conf_.socket_keepalive) ::setsockopt(fd->get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    if (peer.address.family() != AF_UNIX && conf_.tcp_nodelay) core::set_nodelay(fd->get());
    upstream_.reset(new UpstreamConnection(peer.address));
    upstream_->stream = core::Stream(std::move(*fd));
    upstream_->user = this;
    if (auto started = upstream_->watch.start(upstream_->stream.fd(), *upstream_); !started) {
        LOG(log, alert, 0, "%s", started.error().what.c_str());
        return try_failed();
    }
    timer_.set(conf_.connect_timeout->count);
}

void StreamSession::on_upstream_io(uint8_t ready) {
    if (state_ == State::proxying) return tunnel_->on_upstream_io(ready);
    if (state_ != State::connecting || !(ready & (core::ready_write | core::ready_hangup))) return;
    if (int error = core::socket_error(upstream_->stream.fd())) {
        if (is_usual(error)) {
            LOG(log, error, error, "connect() failed");
        } else {
            LOG(log, crit, error, "connect() failed");
        }
        return try_failed();
    }
    connected();
}

void StreamSession::try_failed() {
    timer_.cancel();
    upstream_.reset();
    leave_peer(TryEnd::failed);
    if (choice_.tries == 0 || !conf_.next_upstream) return close();
    next_try();
}

void StreamSession::leave_peer(TryEnd end) {
    if (!choice_.current) return;
    if (give_back(choice_, target_->store, end, {})) {
        LOG(log, warn, 0, "upstream server temporarily disabled");
    }
}

// ---- bytes both ways ----

void StreamSession::connected() {
    if (log.enabled(core::Level::info)) {
        log.describe = nullptr;
        const char* action = std::exchange(log.action, nullptr);
        LOG(log, info, 0, "proxy %s connected to %s",
            core::local_address(upstream_->stream.fd()).text().c_str(), upstream_name_.c_str());
        log.action = action;
        log.describe = describe;
    }
    log.action = "proxying connection";
    state_ = State::proxying;
    watch.stop();
    auto mode = conf_.half_close ? UpstreamTunnel::Ends::each : UpstreamTunnel::Ends::together;
    tunnel_ = std::make_unique<UpstreamTunnel>(*this, std::move(stream), *upstream_, mode);
    timer_.set(conf_.timeout->count);
    if (!tunnel_->start({}, {})) close();
}

void StreamSession::on_tunnel_moved() { timer_.set(conf_.timeout->count); }

void StreamSession::on_tunnel_end() {
    UpstreamTunnel::Counts counts = tunnel_->counts();
    log.describe = nullptr;
    log.action = nullptr;
    LOG(log, info, 0,
        "%s disconnected, bytes from/to client:%lld/%lld, bytes from/to upstream:%lld/%lld",
        tunnel_->upstream_ended() ? "upstream" : "client", counts.from_client, counts.to_client,
        counts.from_upstream, counts.to_upstream);
    close();
}

void StreamSession::on_timeout(void* self) {
    auto& it = *static_cast<StreamSession*>(self);
    if (it.state_ == State::connecting) {
        LOG(it.log, error, ETIMEDOUT, "upstream timed out");
        return it.try_failed();
    }
    LOG(it.log, info, ETIMEDOUT, "%s",
        it.state_ == State::proxying ? "connection timed out" : "client timed out");
    it.close();
}

void StreamSession::close(bool reset) {
    if (state_ == State::over) return;
    state_ = State::over;
    timer_.cancel();
    if (tunnel_) tunnel_->stop();
    watch.stop_closing();
    if (reset) {
        stream.reset();
    } else {
        if (stream.tls()) stream.tls()->shutdown();
        stream.close();
    }
    upstream_.reset();
    leave_peer(TryEnd::passed);
    core::Reactor::current().at_end(core::Reactor::destroy, destruction_);
}

core::Stream StreamSession::detach(std::string& leftover) {
    leftover.clear();
    watch.stop();
    timer_.cancel();
    return std::move(stream);
}

}  // namespace server
