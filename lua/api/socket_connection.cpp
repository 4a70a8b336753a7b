// An open connection; see socket_connection.h.
#include "lua/api/socket_connection.h"

#include <cerrno>

#include "core/tls.h"
#include "lua/api/socket_tcp.h"
#include "lua/api/socket_values.h"

namespace lua {

void SocketValuesDelete::operator()(SocketValues* values) const { delete values; }

SocketConnection* SocketConnection::open(core::Stream stream, PoolSlot slot, int* error) {
    auto* made = new SocketConnection(std::move(stream), std::move(slot));
    if (made->watch_.start(made->stream.fd(), *made)) return made;
    *error = errno;
    delete made;
    return nullptr;
}

void SocketConnection::close(SocketConnection* connection) {
    connection->watch_.stop_closing();
    delete connection;
}

core::IoResult SocketConnection::fill(size_t room) {
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
    SocketPool& pool = *connection->slot_.pool();
    ++pool.counts.expired;
    pool.forget_idle(*connection);
}

void SocketConnection::on_io(uint8_t ready) {
    if (ready & core::ready_read) readable_ = true;
    if (ready & core::ready_hangup) ended_ = true;
    if (user) return user->ready(ready);
    if (!linked() || quiet()) return;
    idle_too_long(this);
}

}  // namespace lua
