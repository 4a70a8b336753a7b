// UpstreamGroup: one upstream{} block (or a server named in proxy_pass): its servers, how one is
// chosen, and the connections kept to them. Belongs to the configuration; its peers live in each
// worker, or in the group's shared zone.
//
// Directives: upstream/modules/upstream.cpp. Used by upstream/session for each request.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "conf/tree.h"
#include "core/list.h"
#include "core/result.h"
#include "server/http/variables.h"
#include "server/upstream/balance.h"
#include "server/upstream/connection.h"
#include "server/upstream/peers.h"

namespace core {
class Resolver;
class ResolveQuery;
class Timer;
}

namespace server {

class GroupMetrics;              // server/upstream/group_metrics.h
class PeerChooser;               // server/upstream/balancer.h
class Request;
class Worker;
struct Location;
struct StickyRule;               // server/upstream/sticky.h
struct UpstreamSettings;

// A `server` line.
struct ServerLine {
    PeerSpec spec;                         // address unset
    std::string host;                      // what to look up; empty: addresses are literal
    int port = 0;
    std::string service;                   // SRV
    bool resolve = false;                  // at run time, again and again
    std::vector<core::Address> addresses;  // what is known of it now
    std::vector<PeerSpec> found;           // of a service: each with its own port and weight
};

// A request that waits until a server has room (`queue`).
class QueuedRequest : public core::ListNode {
  public:
    virtual void on_room() = 0;

  protected:
    ~QueuedRequest() = default;
};

// What all workers see of a group. In the memory for updates, which every configuration has.
struct GroupShared {
    std::atomic<uint64_t> version{0};      // of the last change of the servers at run time; 0: none
    std::atomic<bool> replaced{false};     // they are those of `text`, not the configuration's
    char* text = nullptr;
    size_t text_size = 0;
    PeerTable* table = nullptr;            // with a zone: the table in it
};

class UpstreamGroup {
  public:
    UpstreamGroup(std::string name, const conf::Place& place);
    ~UpstreamGroup();
    UpstreamGroup(const UpstreamGroup&) = delete;
    UpstreamGroup& operator=(const UpstreamGroup&) = delete;

    // ---- configuration ----
    std::string name;
    int port = 0;                          // of an implicit one
    conf::Place place;
    bool implicit = false;                 // made by proxy_pass http://host
    std::vector<ServerLine> servers;
    BalanceMethod method = BalanceMethod::round_robin;
    bool method_set = false;
    bool counts_inflight = false;
    ComplexValue hash_key;
    ConnectionPool::Limits keepalive{32};
    bool keepalive_set = false;
    bool keepalive_local = true;           // a connection serves one location only
    std::string zone_name;
    size_t zone_bytes = 0;
    int queue_max = 0;
    int64_t queue_timeout_ms = 60000;
    std::shared_ptr<core::Resolver> own_resolver;
    int64_t resolver_timeout_ms = -1;
    std::shared_ptr<PeerChooser> chooser;  // balancer_by_lua
    uint32_t script_pool = 0;              // balancer_keepalive; 0: 32
    bool placeholder = false;              // without any server: the script must name one
    std::shared_ptr<StickyRule> sticky;

    // After the configuration was read: looks names up and makes the first table.
    core::Result<void> prepare();
    // In a worker: begins to look up what is to be looked up at run time.
    void start(Worker& worker);
    void stop();

    // ---- for requests ----
    PeerStore store;
    // The table as it is now, with a reference for the caller. Takes the store's lock.
    PeerTable* table();
    ConnectionPool pool;
    HashRing ring;
    core::List<QueuedRequest> queue;
    int queued = 0;
    std::unique_ptr<GroupMetrics> metrics;   // of this worker; null: nothing is counted
    // A request has ended: there may be room for one that waits.
    void room();

    // ---- changes at run time ----
    // Replaces the servers, in all workers: each request sees the old ones or the new ones.
    core::Result<void> replace(std::vector<PeerSpec> specs);
    // The same in two steps: what it takes is set aside now, so that commit() cannot fail.
    // Destroyed without that it leaves everything as it was. In one process, for all of them.
    class Replacement;                     // group_changes.h
    core::Result<std::unique_ptr<Replacement>> stage(std::vector<PeerSpec> specs);
    // The servers are the configuration's again. `first`: in the process that acts for all; in the
    // others afterwards.
    void restore(bool first);
    bool replaced() const { return shared_->replaced.load(std::memory_order_acquire); }
    // Some are looked up while the server runs: not every process knows them.
    bool looks_up() const;
    // Marks a peer of the current table (by its index within its list).
    bool set_down(bool backup, uint32_t index, bool down);

  private:
    struct Lookup;                         // one server line's name at run time
    struct Update;                         // what replace() leaves for all workers

    core::Result<void> look_up_now(ServerLine& line);
    std::vector<PeerSpec> all_specs() const;
    void identify(std::vector<PeerSpec>& specs) const;
    void rebuild();
    void adopt(PeerTable* fresh);
    void refresh();
    PeerTable*& current();

    PeerTable* local_ = nullptr;           // without a zone
    GroupShared* shared_ = nullptr;     // in the updates' memory, or the zone
    std::shared_ptr<core::ShmZone> zone_;
    uint64_t seen_ = 0;                    // the last update that this worker has applied
    uint64_t versions_ = 0;
    std::vector<std::unique_ptr<Lookup>> lookups_;
};

// A location that sends its requests to a group.
struct UpstreamTarget {
    const Location* location;
    UpstreamGroup* group;
    const UpstreamSettings* settings;
    bool tls;
};

// The groups of a configuration.
struct UpstreamGroups {
    std::vector<UpstreamTarget> targets;
    std::vector<std::shared_ptr<UpstreamGroup>> all;
    std::shared_ptr<core::ShmZone> updates;

    // By name, without regard to case; `port` 0 finds upstream{} blocks and others only with the
    // same port. Null when there is none.
    UpstreamGroup* find(core::Slice host, int port) const;
};
UpstreamGroups& upstream_groups();         // of the current configuration
// The group that is being bound (a directive within upstream{}).
UpstreamGroup& binding_group();

// Blocking, for names in the configuration. Empty when there is no such host.
std::vector<core::Address> look_up_host(const std::string& host, int port);

}  // namespace server
