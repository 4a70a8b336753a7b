// The way of a TLS connection from accept() to its first request.
#include "server/http/tls_accept.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "core/clock.h"
#include "core/tls.h"
#include "server/config.h"
#include "server/http/client_status.h"
#include "server/http/core_conf.h"
#include "server/http/h1.h"
#include "server/http/handshake.h"
#include "server/http/proxy_header.h"
#include "server/http/server_tls.h"
#include "server/metrics.h"
#include "server/worker.h"

namespace server {

namespace {

enum : size_t { handshakes_done, handshakes_failed, sessions_reused };
constexpr MetricColumn tls_columns[] = {
    {"handshakes", MetricColumn::counter, "resty_tls_handshakes_total",
     "TLS handshakes with clients.", "result=\"ok\""},
    {"handshakes_failed", MetricColumn::counter, "resty_tls_handshakes_total", nullptr,
     "result=\"failed\""},
    {"sessions_reused", MetricColumn::counter, "resty_tls_sessions_reused_total",
     "Handshakes that went on with an earlier session."},
};
constinit const MetricTable tls_table{.name = "tls", .columns = tls_columns};
REGISTER_METRICS(tls_table);

}  // namespace

TlsAccept::TlsAccept(Worker& by, ListenAddress& on, core::Fd fd, const core::Address& from)
    : Connection(by, on, std::move(fd), from), timer_(on_timeout, this) {
    if (listen.proxy_protocol) state_ = State::proxy_header;
}

TlsAccept::~TlsAccept() = default;

bool TlsAccept::begin() {
    if (auto started = watch.start(stream.fd(), *this); !started) {
        LOG(log, alert, 0, "%s", started.error().what.c_str());
        return false;
    }
    log.action = "SSL handshaking";
    timer_.set(listen.default_server->root.core->client_header_timeout->count);
    return true;
}

// While a script is waited for nothing is read: what the client has to say stays in the socket.
void TlsAccept::on_io(uint8_t ready) {
    if (ready & core::ready_hangup) hung_up_ = true;
    // Room to write is news only to a handshake that waits for it.
    bool waits_to_write = stream.tls() && stream.tls()->wants() == core::TlsSession::Wants::write;
    bool news = ready != core::ready_write || waits_to_write;
    if (news && !waits_for_script_) advance();
    end_if_left();
}

void TlsAccept::end_if_left() {
    if (!waits_for_script_ || !client_may_end_ || !hung_up_ || state_ == State::over) return;
    LOG(log, info, 0, "client closed connection");
    close();
}

void TlsAccept::advance() {
    if (state_ == State::proxy_header && !take_proxy_header()) return;
    if (state_ == State::first_byte && !look_at_first_byte()) return;
    if (state_ == State::handshake) shake_hands();
}

// The header is looked at where it lies and then taken, so that not a byte of the hello goes.
bool TlsAccept::take_proxy_header() {
    char room[ProxyHeader::bytes_max];
    ssize_t got = ::recv(stream.fd(), room, sizeof room, MSG_PEEK);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    auto header = std::make_unique<ProxyHeader>();
    size_t used = 0;
    auto outcome = got > 0 ? ProxyHeader::parse({room, size_t(got)}, *header, used)
                           : ProxyHeader::Outcome::invalid;
    if (outcome == ProxyHeader::Outcome::needs_more && size_t(got) < sizeof room) return false;
    if (outcome != ProxyHeader::Outcome::complete) {
        log.action = "reading PROXY protocol";
        LOG(log, error, 0, "broken header");
        close();
        return false;
    }
    ::recv(stream.fd(), room, used, 0);
    proxy = std::move(header);
    state_ = State::first_byte;
    return true;
}

// A handshake record, or an SSLv2 hello; everything else is taken for HTTP (answered with 497).
bool TlsAccept::look_at_first_byte() {
    unsigned char first = 0;
    ssize_t got = ::recv(stream.fd(), &first, 1, MSG_PEEK);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got <= 0) {
        LOG(log, info, got < 0 ? errno : 0, "client closed connection");
        close();
        return false;
    }
    if (first != 0x16 && !(first & 0x80)) {
        hand_over();
        return false;
    }
    const ServerTls* tls_of = listen.default_server->tls.get();
    if (tls_of && tls_of->context) {
        auto session = core::TlsSession::create(tls_of->context, stream.fd());
        if (session) {
            bind_session(*session, this);
            stream.set_tls(std::move(session));
            tls = true;
            state_ = State::handshake;
            return true;
        }
    }
    close();
    return false;
}

void TlsAccept::shake_hands() {
    core::TlsSession& session = *stream.tls();
    using Peer = core::TlsSession::Peer;
    core::IoResult result = session.handshake_before_use(hung_up_ ? Peer::may_have_closed
                                                                  : Peer::is_there);
    switch (result.status) {
    case core::Io::again: return;
    case core::Io::done:
        count(tls_table, handshakes_done);
        if (session.resumed()) count(tls_table, sessions_reused);
        if (waits_for_status()) return session.say_rest();
        return hand_over(!session.drained());
    case core::Io::closed:
        LOG(log, info, 0, "peer closed connection in SSL handshake");
        break;
    case core::Io::failed:
        if (result.error == EPROTO) {
            // What a client does wrong is its affair.
            LOG(log, info, 0, "SSL_do_handshake() failed%s", session.error_text().c_str());
        } else {
            LOG(log, info, result.error, "SSL_do_handshake() failed");
        }
        break;
    }
    count(tls_table, handshakes_failed);
    close();
}

// Were the client's certificates revoked? What is found out is noted in the session.
bool TlsAccept::waits_for_status() {
    core::TlsSession& session = *stream.tls();
    const ClientStatusRule* rule = client_status_rule(session);
    if (!rule) return false;
    status_check_ =
        std::make_unique<ClientStatusCheck>(*rule, session, log, [this] { hand_over(); });
    if (!status_check_->begin()) return false;
    state_ = State::client_status;
    return true;
}

void TlsAccept::script_answered() {
    waits_for_script_ = false;
    log.action = "SSL handshaking";
    if (state_ == State::handshake) shake_hands();
    end_if_left();
}

// The session may live on, its callbacks must not come here any more.
void TlsAccept::leave_handshake() {
    core::TlsSession* session = stream.tls();
    if (!session) return;
    bind_session(*session, nullptr);
    if (Handshake* handshake = Handshake::of(session->native())) handshake->leave();
}

// From here on HTTP has the socket; what has arrived of the first request is still in it.
void TlsAccept::hand_over(bool may_have_input) {
    state_ = State::over;
    timer_.cancel();
    leave_handshake();
    auto* http = new H1(*this);
    http->watch.take_over(watch, *http);
    if (!http->begin()) {
        http->close();
    } else if (may_have_input || hung_up_) {
        http->on_io(core::ready_read | (hung_up_ ? core::ready_hangup : 0));
    }
    if (core::TlsSession* session = http->stream.tls()) session->say_rest();
    core::Reactor::current().at_end(core::Reactor::destroy, destruction_);
}

void TlsAccept::on_timeout(void* self) {
    auto& it = *static_cast<TlsAccept*>(self);
    LOG(it.log, info, ETIMEDOUT, "client timed out");
    if (it.state_ == State::handshake) count(tls_table, handshakes_failed);
    it.close(it.listen.default_server->root.core->reset_timedout_connection);
}

void TlsAccept::close(bool reset) {
    if (state_ == State::over) return;
    state_ = State::over;
    status_check_.reset();
    timer_.cancel();
    watch.stop_closing();
    leave_handshake();
    if (reset) {
        stream.reset();
    } else {
        stream.close();
    }
    core::Reactor::current().at_end(core::Reactor::destroy, destruction_);
}

core::Stream TlsAccept::detach(std::string& leftover) {
    leftover.clear();
    watch.stop();
    timer_.cancel();
    return std::move(stream);
}

}  // namespace server
