// SocketPool: the idle connections kept under one key, how many there are in all, and who waits for
// one. Pools belong to the worker: all handlers share them. How they could be shared by workers:
// socket_pools.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

#include "core/list.h"
#include "core/slice.h"

namespace lua {

class SocketConnection;
class SocketPool;

// One place among the connections that a pool counts. The last one to go takes the pool along.
class PoolSlot {
  public:
    PoolSlot() = default;
    explicit PoolSlot(SocketPool& pool);
    PoolSlot(PoolSlot&& from) noexcept : pool_(std::exchange(from.pool_, nullptr)) {}
    PoolSlot& operator=(PoolSlot&& from) noexcept {
        if (this != &from) {
            release();
            pool_ = std::exchange(from.pool_, nullptr);
        }
        return *this;
    }
    ~PoolSlot() { release(); }
    void release();
    explicit operator bool() const { return pool_; }
    SocketPool* pool() const { return pool_; }

  private:
    SocketPool* pool_ = nullptr;
};

// A connect() that waits for its turn. The pool takes it off the queue and tells it once; it then
// tries the pool again, or connects, and says end_turn() first.
class PoolWaiter : public core::ListNode {
  public:
    virtual void turn_came() = 0;

  protected:
    ~PoolWaiter() = default;
};

class SocketPool {
  public:
    struct Counts {
        uint64_t taken = 0;              // connections handed out from the idle ones
        uint64_t evicted = 0;            // closed because there was no room
        uint64_t expired = 0;            // closed by the other side or after their time
        uint64_t queued = 0;             // connects that had to wait
        uint64_t refused = 0;            // …and those that were not even let wait
    };

    static SocketPool* find(core::Slice key);
    static SocketPool& make(core::Slice key, int64_t size, int64_t backlog);
    static void visit_all(void (*visit)(const SocketPool&, void* argument), void* argument);

    const std::string& key() const { return key_; }
    int64_t size() const { return size_; }
    int64_t backlog() const { return backlog_; }    // -1: connects never wait
    int64_t connections() const { return connections_; }
    int64_t idle() const { return idle_count_; }
    int64_t waiting() const { return waiting_count_; }

    // The connection that became idle last; null: none.
    SocketConnection* take();
    // Gives one back; the one idle for longest makes room for it.
    void put(SocketConnection& connection, int64_t timeout_ms);
    int64_t close_idle();                // how many; may be the end of the pool
    void wait(PoolWaiter& waiter);
    void stop_waiting(PoolWaiter& waiter);
    // Tells the first who waits, if there is a place or a connection for him.
    void wake_one();
    void end_turn() { --turns_; }

    Counts counts;
    // Shows how it is in the server's metrics; called once a second.
    void publish();

  private:
    friend class PoolSlot;
    friend class SocketConnection;
    SocketPool(core::Slice key, int64_t size, int64_t backlog);
    ~SocketPool();
    void forget_idle(SocketConnection& connection);

    std::string key_;
    int64_t size_, backlog_;
    int64_t connections_ = 0;            // open ones, those being opened, those waited for
    int64_t idle_count_ = 0, waiting_count_ = 0;
    int64_t turns_ = 0;                  // told, and not yet done
    std::atomic<int64_t>* row_;          // of the metrics; null: nothing is counted
    Counts published_;
    core::List<SocketConnection> idle_;  // newest first
    core::List<PoolWaiter> waiters_;
};

}  // namespace lua
