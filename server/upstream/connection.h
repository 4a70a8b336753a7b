// UpstreamConnection: a connection to an upstream server, for as long as it lives: while a
// request uses it and, between requests, idle in the pool of its group. What arrives on an idle
// one, the end included, closes it: no request ever sees bytes that it did not ask for.
//
// Made by upstream/session, its User for one request; owned by that or by a ConnectionPool.
#pragma once

#include <cstdint>
#include <memory>

#include "core/list.h"
#include "core/reactor.h"
#include "core/socket.h"
#include "core/timer.h"

namespace server {

class ConnectionPool;

class UpstreamConnection final : public core::ListNode, public core::IoHandler {
  public:
    // Who uses it. Called from the loop only.
    class User {
      public:
        virtual void on_upstream_io(uint8_t ready) = 0;

      protected:
        ~User() = default;
    };

    // Closes at once; the object itself goes at the end of the loop's turn, because it may be its
    // own event that ends it.
    struct Retire {
        void operator()(UpstreamConnection* connection) const;
    };
    using Ptr = std::unique_ptr<UpstreamConnection, Retire>;

    explicit UpstreamConnection(const core::Address& address);
    ~UpstreamConnection();

    core::Stream stream;
    core::Watch watch;
    core::Address address;
    User* user = nullptr;            // null while idle
    const void* owner_tag = nullptr; // what requests may share it (their location's settings)
    uint64_t identity = 0;           // of TLS settings and names: those of equal identity share it
    uint32_t requests = 0;           // served on it
    int64_t opened_ms;
    bool readable = false;           // the socket may hold more than was read
    bool hung_up = false;            // the server has closed its side: there is an end to be read

    void on_io(uint8_t ready) override;

  private:
    friend class ConnectionPool;
    ConnectionPool* pool_ = nullptr; // while idle
    core::Timer idle_timer_;
    core::Deferred destruction_;
};

// Idle connections of one group in one worker, the most recently used first.
class ConnectionPool {
  public:
    struct Limits {
        uint32_t connections = 0;    // kept idle at most
        int64_t idle_ms = 60000;
        uint32_t requests = 1000;    // served on one connection
        int64_t lifetime_ms = 3600000;
    };

    ~ConnectionPool() { clear(); }

    // One to this address, with the same identity; `tag` null: of any owner. Null: there is none.
    UpstreamConnection::Ptr take(const core::Address& address, uint64_t identity, const void* tag);
    // Keeps it, or closes it when it is of no more use.
    void keep(UpstreamConnection::Ptr connection, const Limits& limits);
    void clear();
    uint32_t count() const { return count_; }

  private:
    friend class UpstreamConnection;
    static void idle_too_long(void* connection);
    void close(UpstreamConnection& connection);

    core::List<UpstreamConnection> idle_;
    uint32_t count_ = 0;
};

}  // namespace server
