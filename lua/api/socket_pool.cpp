// Pools of connections; see socket_pool.h.
#include "lua/api/socket_pool.h"

#include <algorithm>
#include <functional>
#include <unordered_map>

#include "lua/api/socket_connection.h"
#include "server/metrics.h"

namespace lua {
namespace {

struct KeyHash {
    using is_transparent = void;
    size_t operator()(core::Slice key) const { return std::hash<core::Slice>()(key); }
};
using Pools = std::unordered_map<std::string, SocketPool*, KeyHash, std::equal_to<>>;

Pools& pools() {
    static Pools* const all = new Pools;
    return *all;
}

// ---- metrics ----

using Column = server::MetricColumn;
constexpr const char* connections_metric = "resty_socket_pool_connections";
enum : size_t { idle_now, in_use_now, waiting_now, reused, evicted, expired, queued, refused };
constexpr Column columns[] = {
    {"pool", Column::label},
    {"idle", Column::gauge, connections_metric, "Connections of Lua's sockets, by pool and state.",
     "state=\"idle\""},
    {"in_use", Column::gauge, connections_metric, nullptr, "state=\"in_use\""},
    {"queue", Column::gauge, "resty_socket_pool_queue", "connect() calls that wait for a place."},
    {"reused", Column::counter, "resty_socket_pool_reused_total",
     "Connections that were taken from the pool."},
    {"evicted", Column::counter, "resty_socket_pool_evicted_total",
     "Connections closed because the pool was full."},
    {"expired", Column::counter, "resty_socket_pool_expired_total",
     "Connections closed by the other side, or after their time."},
    {"queued", Column::counter, "resty_socket_pool_queued_total",
     "connect() calls that had to wait for a place."},
    {"refused", Column::counter, "resty_socket_pool_refused_total",
     "connect() calls that failed because too many waited already."},
};
void publish_pools(const server::MetricTable&) {
    for (auto& entry : pools()) entry.second->publish();
}
constinit const server::MetricTable socket_pools{
    .name = "socket_pools", .columns = columns, .publish = publish_pools};
REGISTER_METRICS(socket_pools);

}  // namespace

SocketPool::SocketPool(core::Slice key, int64_t size, int64_t backlog)
    : key_(key), size_(size), backlog_(backlog), row_(server::own_row(socket_pools, {key})) {}

SocketPool::~SocketPool() {
    publish();
    server::give_up_row(socket_pools, row_);
}

void SocketPool::publish() {
    if (!row_) return;
    core::set(row_[idle_now], idle_count_);
    core::set(row_[in_use_now], std::max<int64_t>(connections_ - idle_count_ - waiting_count_, 0));
    core::set(row_[waiting_now], waiting_count_);
    core::add(row_[reused], int64_t(counts.taken - published_.taken));
    core::add(row_[evicted], int64_t(counts.evicted - published_.evicted));
    core::add(row_[expired], int64_t(counts.expired - published_.expired));
    core::add(row_[queued], int64_t(counts.queued - published_.queued));
    core::add(row_[refused], int64_t(counts.refused - published_.refused));
    published_ = counts;
}

PoolSlot::PoolSlot(SocketPool& pool) : pool_(&pool) { ++pool.connections_; }

void PoolSlot::release() {
    SocketPool* pool = std::exchange(pool_, nullptr);
    if (!pool) return;
    if (--pool->connections_ > 0) return pool->wake_one();
    pools().erase(pool->key_);
    delete pool;
}

SocketPool* SocketPool::find(core::Slice key) {
    auto found = pools().find(key);
    return found == pools().end() ? nullptr : found->second;
}

SocketPool& SocketPool::make(core::Slice key, int64_t size, int64_t backlog) {
    SocketPool*& place = pools()[std::string(key)];
    if (!place) place = new SocketPool(key, size, backlog);
    return *place;
}

void SocketPool::visit_all(void (*visit)(const SocketPool&, void*), void* argument) {
    for (auto& entry : pools()) visit(*entry.second, argument);
}

SocketConnection* SocketPool::take() {
    SocketConnection* newest = idle_.pop_front();
    if (!newest) return nullptr;
    --idle_count_;
    ++counts.taken;
    return newest;
}

void SocketPool::put(SocketConnection& connection, int64_t timeout_ms) {
    if (!connection.counted()) connection.count_in(*this);
    if (idle_count_ >= size_) {
        ++counts.evicted;
        forget_idle(idle_.back());
    }
    ++idle_count_;
    idle_.push_front(connection);
    connection.begin_idle(*this, timeout_ms);
    wake_one();
}

// May be the end of the pool.
void SocketPool::forget_idle(SocketConnection& connection) {
    connection.unlink();
    --idle_count_;
    SocketConnection::close(&connection);
}

int64_t SocketPool::close_idle() {
    PoolSlot keeps_us(*this);
    int64_t count = idle_count_;
    while (!idle_.empty()) forget_idle(idle_.front());
    return count;
}

void SocketPool::wait(PoolWaiter& waiter) {
    ++waiting_count_;
    ++counts.queued;
    waiters_.push_back(waiter);
}

void SocketPool::stop_waiting(PoolWaiter& waiter) {
    if (!waiter.linked()) return;
    waiter.unlink();
    --waiting_count_;
}

void SocketPool::wake_one() {
    if (waiters_.empty()) return;
    int64_t open = connections_ - waiting_count_ - turns_;
    if (turns_ >= idle_count_ + std::max<int64_t>(size_ - open, 0)) return;
    PoolWaiter* first = waiters_.pop_front();
    --waiting_count_;
    ++turns_;
    first->turn_came();
}

}  // namespace lua
