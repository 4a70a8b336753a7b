// Upstream connections and their pool.
#include "server/upstream/connection.h"

#include "core/clock.h"

namespace server {

UpstreamConnection::UpstreamConnection(const core::Address& to)
    : address(to),
      opened_ms(core::Clock::monotonic_ms()),
      idle_timer_(ConnectionPool::idle_too_long, this),
      destruction_([](void* it) { delete static_cast<UpstreamConnection*>(it); }, this) {}

void UpstreamConnection::Retire::operator()(UpstreamConnection* connection) const {
    connection->user = nullptr;
    connection->pool_ = nullptr;
    connection->idle_timer_.cancel();
    if (connection->watch.active()) connection->watch.stop_closing();
    connection->stream.close();
    core::Reactor::current().at_end(core::Reactor::destroy, connection->destruction_);
}

UpstreamConnection::~UpstreamConnection() {
    if (watch.active()) watch.stop_closing();
}

void UpstreamConnection::on_io(uint8_t ready) {
    if (user) return user->on_upstream_io(ready);
    // Idle: the end, or bytes nobody asked for. (A write event is the rest of the last request's.)
    if (!(ready & (core::ready_read | core::ready_hangup))) return;
    // TLS may have something to say between requests (tickets) that is not for us.
    if (stream.tls() && !(ready & core::ready_hangup)) {
        char byte;
        if (stream.read(&byte, 1).status == core::Io::again) return;
    }
    if (pool_) pool_->close(*this);
}

UpstreamConnection::Ptr ConnectionPool::take(const core::Address& address, uint64_t identity,
                                             const void* tag) {
    auto fits = [&](const UpstreamConnection& it) {
        return it.identity == identity && (!tag || it.owner_tag == tag) && it.address == address;
    };
    // Nearly always the first: those in front of the one that fits are set aside, not walked over.
    core::List<UpstreamConnection> others;
    UpstreamConnection* found = nullptr;
    while (UpstreamConnection* next = idle_.pop_front()) {
        if (fits(*next)) {
            found = next;
            break;
        }
        others.push_back(*next);
    }
    if (!others.empty()) {
        others.take_all(idle_);
        idle_.take_all(others);
    }
    if (!found) return nullptr;
    --count_;
    found->pool_ = nullptr;
    found->idle_timer_.cancel();
    return UpstreamConnection::Ptr(found);
}

void ConnectionPool::keep(UpstreamConnection::Ptr connection, const Limits& limits) {
    UpstreamConnection& it = *connection;
    if (limits.connections == 0 || it.requests >= limits.requests || it.readable) return;
    if (core::Clock::monotonic_ms() - it.opened_ms > limits.lifetime_ms) return;
    if (count_ >= limits.connections && !idle_.empty()) close(idle_.back());
    it.user = nullptr;
    it.pool_ = this;
    if (limits.idle_ms > 0) it.idle_timer_.set(limits.idle_ms);
    idle_.push_front(*connection.release());
    ++count_;
}

void ConnectionPool::close(UpstreamConnection& connection) {
    connection.unlink();
    --count_;
    UpstreamConnection::Retire{}(&connection);
}

void ConnectionPool::idle_too_long(void* connection) {
    auto& it = *static_cast<UpstreamConnection*>(connection);
    if (it.pool_) it.pool_->close(it);
}

void ConnectionPool::clear() {
    while (UpstreamConnection* connection = idle_.pop_front()) delete connection;
    count_ = 0;
}

}  // namespace server
