// Peers: the servers of an upstream group with what is known of each (weights, failures, running
// requests), and the tables requests choose from. A table is immutable but for its peers' counters:
// when the servers change a new one takes its place, and requests under way keep the one they began
// with. Both live on the heap, in a shared zone, or in a request's arena (a name in proxy_pass).
//
// Knows nothing of requests and connections. Methods of choosing are in balance.h.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/slice.h"
#include "core/socket.h"

namespace core {
class Arena;
class ShmZone;
}

namespace server {

// One server as configured, or as a script gives it, for each address it has.
struct PeerSpec {
    std::string server;              // as written: "backend1:8080"
    core::Address address;
    int weight = 1;
    int max_conns = 0;               // 0: no limit
    int max_fails = 1;
    int64_t fail_timeout_s = 10;
    int64_t slow_start_ms = 0;
    bool backup = false;
    bool down = false;
    bool drain = false;              // sticky: only for clients that belong to it
    std::string route;               // sticky: its identifier; empty: made from its address
};

enum PeerDown : uint8_t {
    peer_up = 0,
    peer_down = 1,                   // by configuration or script
    peer_unhealthy = 2,              // by health checks
    peer_draining = 4,
};

struct Peer {
    uint32_t references;             // tables that hold it, and requests that use it
    int weight, max_conns, max_fails;
    int64_t fail_timeout_s, slow_start_ms;
    core::Address address;
    core::Slice name;                // "127.0.0.1:8080"; behind the object
    core::Slice server;
    core::Slice route;

    int current_weight, effective_weight;
    int conns;
    int fails;
    uint8_t down;                    // bits of PeerDown
    int64_t accessed_s, checked_s;   // wall clock: last failure; last time it was given a chance
    int64_t start_ms;                // monotonic: when it came (back), for slow_start; 0: long ago
    // Averages for least_time, milliseconds.
    int64_t header_ms, response_ms;
    int64_t inflight_ms, inflight_last_ms, inflight_changed_ms;
    int inflight;
    // Of health checks: in a row.
    int passes, failures;
};

struct PeerList {
    Peer** items = nullptr;
    uint32_t count = 0;
    int total_weight = 0;
    int usable = 0;                  // not down when the table was made
};

struct PeerTable {
    uint32_t references;
    uint64_t version;
    PeerList primary, backup;
    bool single;                     // one server and no backup: it is always tried

    int tries() const { return primary.usable + backup.usable; }
};

// Where tables and peers are kept. Locking is the caller's business; only a zone has a lock.
class PeerStore {
  public:
    PeerStore() = default;                                   // the heap
    explicit PeerStore(core::ShmZone& zone) : zone_(&zone) {}
    explicit PeerStore(core::Arena& arena) : arena_(&arena) {}

    void lock() const;
    void unlock() const;
    bool shared() const { return zone_ != nullptr; }
    core::ShmZone* zone() const { return zone_; }

    // A table of these servers, in their order, with one reference. Peers of `before` that have the
    // same address go on with their counters. Null when the zone is full.
    PeerTable* make(const std::vector<PeerSpec>& specs, const PeerTable* before,
                    uint64_t version) const;
    void hold(Peer& peer) const { ++peer.references; }
    void drop(Peer* peer) const;
    void drop(PeerTable* table) const;

  private:
    void* allocate(size_t bytes) const;
    void free(void* memory) const;
    Peer* make_peer(const PeerSpec& spec) const;

    core::ShmZone* zone_ = nullptr;
    core::Arena* arena_ = nullptr;
};

class PeerLock {
  public:
    explicit PeerLock(const PeerStore& store) : store_(store) { store_.lock(); }
    ~PeerLock() { store_.unlock(); }
    PeerLock(const PeerLock&) = delete;
    PeerLock& operator=(const PeerLock&) = delete;

  private:
    const PeerStore& store_;
};

// The specs a table was made of, as its peers are now.
std::vector<PeerSpec> specs_of(const PeerTable& table);

}  // namespace server
