// Names to addresses without blocking: DNS by c-ares on our reactor, the hosts file, a cache by
// TTL. Used by upstreams, cosockets, syslog-like clients and whoever else has a name at run time.
//
// A Resolver belongs to one thread's reactor; made before a fork, it opens its sockets in the
// child, at the first query.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/list.h"
#include "core/reactor.h"
#include "core/result.h"
#include "core/slice.h"
#include "core/socket.h"
#include "core/timer.h"

namespace core {

// How a resolution ended: DNS's own codes, and a timeout.
enum class ResolveStatus : uint8_t {
    ok = 0, format_error = 1, server_failure = 2, host_not_found = 3, unimplemented = 4,
    refused = 5, timed_out = 110,
};
// "Host not found", "Operation timed out", …: nginx's words.
const char* resolve_status_text(ResolveStatus status);

enum class ResolveKind : uint8_t { addresses, services, pointer };

struct Resolution {
    struct Service {
        uint16_t priority, weight, port;
        std::string target;
        std::vector<Address> addresses;    // with the port; empty when the target has none
    };

    ResolveStatus status = ResolveStatus::ok;
    bool stale = false;                    // out of date, but the servers do not answer
    std::string name;                      // what was asked for, in lower case
    std::vector<Address> addresses;        // port 0; IPv4 first
    std::vector<Service> services;         // for services
    std::string pointer;                   // for pointer: the host name
    int64_t expires_ms = 0;                // Clock::monotonic_ms() until which it holds

    bool ok() const { return status == ResolveStatus::ok; }
    // "x could not be resolved (3: Host not found)"
    std::string error_text() const;
};

class Resolver;

// One wait for an answer. Destroying it means that `done` is not called.
class ResolveQuery : public ListNode {
  public:
    // Called from the loop, once; may destroy the query. The resolution is valid during the call.
    using Done = std::function<void(const Resolution& resolution)>;
    ~ResolveQuery();

  private:
    friend class Resolver;
    friend struct ResolverCore;
    explicit ResolveQuery(Done done);
    void deliver();
    void expire();

    Done done_;
    std::shared_ptr<const Resolution> answer_;
    std::shared_ptr<Resolver> resolver_;
    std::string key_;
    Timer timer_;
    Deferred ready_;
};

class Resolver : public std::enable_shared_from_this<Resolver> {
  public:
    struct Options {
        // "127.0.0.1", "127.0.0.1:5353", "[::1]:53". Empty: those of resolv.conf, with its search
        // domains and ndots, read again when the file changes.
        std::vector<std::string> servers;
        bool ipv4 = true, ipv6 = true;
        int64_t valid_ms = -1;             // cache addresses this long instead of their TTL
        int64_t timeout_ms = 30000;        // of a query that names none (resolver_timeout)
        int64_t try_timeout_ms = 2000;     // of the first datagram; doubled with each round
        int tries = 4;
        std::string hosts_path = "/etc/hosts";           // empty: none
        std::string status_zone;                         // what it is counted as
        std::string resolv_conf_path = "/etc/resolv.conf";
    };

    static constexpr size_t cached_names_max = 10000;
    static constexpr size_t lookups_max = 10000;         // under way at once
    static constexpr int64_t negative_ms = 2000;         // how long "not found" is believed
    static constexpr int64_t stale_ms = 3600000;         // how long an old answer may stand in

    // Host names among the servers are looked up at once, blocking: only while loading. The error
    // is nginx's: `host not found in resolver "x"`.
    static Result<std::shared_ptr<Resolver>> create(Options options);
    ~Resolver();

    // The answer when there is one at once (a literal address, the hosts file, the cache), else
    // null.
    std::shared_ptr<const Resolution> find(Slice name, ResolveKind kind = ResolveKind::addresses);

    // Always answers through `done`, never from inside this call. The query keeps the resolver.
    std::unique_ptr<ResolveQuery> resolve(Slice name, ResolveQuery::Done done,
                                          ResolveKind kind = ResolveKind::addresses,
                                          int64_t timeout_ms = -1);
    // The name of an address.
    std::unique_ptr<ResolveQuery> resolve_address(const Address& address, ResolveQuery::Done done,
                                                  int64_t timeout_ms = -1);

    const Options& options() const { return options_; }

    // What a resolver counts: names asked for by kind, those answered without asking, and what
    // lookups came to.
    enum Count : uint8_t {
        names, services, pointers, cached, no_error, format_errors, server_failures, not_found,
        unimplemented, refused, timed_out, others,
    };
    // From now on resolvers that are used for the first time ask this for their counters, one for
    // each Count (null: none), by their status_zone.
    using FindCounters = std::atomic<int64_t>* (*)(const std::string& status_zone);
    static void count_in(FindCounters find) { find_counters_ = find; }

  private:
    friend class ResolveQuery;
    friend struct ResolverCore;
    explicit Resolver(Options options);

    inline static FindCounters find_counters_ = nullptr;

    Options options_;
    std::unique_ptr<struct ResolverCore> core_;
};

}  // namespace core
