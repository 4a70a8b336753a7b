// An open connection; see socket_connection.h.
#include "lua/api/socket_connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/tls.h"
#include "lua/api/socket_tcp.h"
#include "lua/api/socket_values.h"
#include "server/http/request.h"

namespace lua {

void SocketValuesDelete::operator()(SocketValues* values) const { delete values; }

SocketConnection* SocketConnection::open(core::Stream stream, PoolSlot slot, int* error) {
    auto* made = new SocketConnection(std::move(stream), std::move(slot));
    if (made->watch_.start(made->stream.fd(), *made)) return made;
    *error = errno;
    delete made;
    return nullptr;
}

SocketConnection* SocketConnection::open_body(server::Request& request) {
    auto* made = new SocketConnection(core::Stream(), PoolSlot());
    made->body_of_ = &request;
    // From now on the body is streamed, whether or not anything of it is ever asked for.
    request.body.read_unbuffered(request, nullptr, nullptr);
    return made;
}

void SocketConnection::close(SocketConnection* connection) {
    if (connection->body_of_) connection->body_of_->body.forget_callback();
    connection->watch_.stop_closing();
    delete connection;
}

void SocketConnection::linger(SocketConnection* connection, int64_t timeout_ms) {
    connection->stream.shutdown_write();
    connection->user = nullptr;
    connection->lingering_ = true;
    connection->idle_timer_.set(timeout_ms);
    connection->drop_input();
}

// May be the end of it.
void SocketConnection::drop_input() {
    char dropped[4096];
    while (readable_) {
        core::IoResult got = stream.read(dropped, sizeof dropped);
        if (got.status == core::Io::again) {
            readable_ = false;
        } else if (got.status != core::Io::done) {
            return close(this);
        }
    }
}

core::IoResult SocketConnection::fill_from_body(size_t room) {
    if (body_.empty()) {
        auto arrived = [](server::Request&, void* self, server::Verdict) {
            TcpSocket* socket = static_cast<SocketConnection*>(self)->user;
            if (socket) socket->ready(core::ready_read);
        };
        server::Verdict verdict = body_of_->body.read_unbuffered(*body_of_, arrived, this);
        if (verdict.is(server::Verdict::suspended)) return {core::Io::again};
        if (verdict.is(server::Verdict::rejected)) return {core::Io::failed, 0, ECONNABORTED};
        body_ = body_of_->body.take_pending();
        if (body_.empty()) {
            ended_ = true;
            return {core::Io::closed};
        }
    }
    core::Slice piece = body_.head()->text();
    size_t bytes = std::min(piece.size(), room);
    char* to = input.room(bytes);
    if (!to) return {core::Io::failed, 0, ENOMEM};
    std::memcpy(to, piece.data(), bytes);
    input.filled(bytes);
    body_.consume(int64_t(bytes));
    return {core::Io::done, int64_t(bytes)};
}

core::IoResult SocketConnection::fill(size_t room) {
    if (body_of_) return fill_from_body(room);
    if (!readable_) return {core::Io::again};
    char* to = input.room(room);
    if (!to) return {core::Io::failed, 0, ENOMEM};
    core::IoResult got = stream.read(to, room);
    if (got.status == core::Io::done) {
        input.filled(size_t(got.bytes));
        if (got.drained && !ended_) readable_ = false;
    } else if (got.status == core::Io::again) {
        readable_ = false;
    } else {
        ended_ = true;
    }
    return got;
}

bool SocketConnection::quiet() {
    if (!readable_) return true;
    char byte;
    if (stream.read(&byte, 1).status != core::Io::again) return false;
    readable_ = false;
    return true;
}

void SocketConnection::begin_idle(SocketPool&, int64_t timeout_ms) {
    user = nullptr;
    if (timeout_ms > 0) idle_timer_.set(timeout_ms);
}

void SocketConnection::end_idle(TcpSocket& socket) {
    idle_timer_.cancel();
    user = &socket;
    ++reused;
}

void SocketConnection::idle_too_long(void* self) {
    auto* connection = static_cast<SocketConnection*>(self);
    if (connection->lingering_) return close(connection);
    SocketPool& pool = *connection->slot_.pool();
    ++pool.counts.expired;
    pool.forget_idle(*connection);
}

void SocketConnection::on_io(uint8_t ready) {
    if (ready & core::ready_read) readable_ = true;
    if (ready & core::ready_hangup) ended_ = true;
    if (user) return user->ready(ready);
    if (lingering_) return drop_input();
    if (!linked() || quiet()) return;
    idle_too_long(this);
}

}  // namespace lua
