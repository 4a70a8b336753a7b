// What a script that balances sees of a request to an upstream group: which try it is, how the last
// one ended, and where this one shall go. balancer_by_lua is a PeerChooser; ngx.balancer and
// ngx.upstream work through this header.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "conf/binder.h"
#include "core/slice.h"
#include "core/socket.h"
#include "server/verdict.h"

struct ssl_st;

namespace server {

class Request;
class UpstreamGroup;

// What a chooser decides for one try.
struct PeerDecision {
    core::Address address;                 // family AF_UNSPEC: nothing was chosen
    core::Slice host;                      // the name for TLS; empty: none
    int more_tries = 0;
    int tries_total = 0;                   // so far
    int64_t connect_ms = -1, send_ms = -1, read_ms = -1;    // -1: as configured
    bool keepalive = false;
    int64_t keepalive_idle_ms = 60000;
    uint32_t keepalive_requests = 100;
    core::Slice local_address;             // bind to it; empty: as configured
    bool recreate = false;                 // make the request anew
    int tls = -1;                          // -1: as configured, 0 off, 1 on
};

enum class LastFailure : uint8_t { none, next, failed };

class PeerChooser {
  public:
    virtual ~PeerChooser() = default;
    // Fills `decision`. passed: chosen (without an address the group's method chooses); suspended:
    // choice_made() is called later, from the loop; declined: no server is to be had; rejected: the
    // request ends with this status.
    virtual Verdict choose(Request& request, PeerDecision& decision) = 0;
};

// The answer of a chooser that was suspended.
void choice_made(Request& request, Verdict verdict);

struct BalancerState {
    PeerDecision* decision = nullptr;      // null: not in a balancer phase
    UpstreamGroup* group = nullptr;
    LastFailure last_failure = LastFailure::none;
    int last_status = 0;
    int tries_left = 0;
    int next_tries = 0;                    // proxy_next_upstream_tries; 0: no limit
    bool tls = false;                      // the upstream is asked by TLS
};
// Of the request's upstream exchange; decision null when there is none.
BalancerState balancer_state(Request& request);
// The name of the group the request is sent to; empty when there is none.
core::Slice upstream_name(Request& request);
// The TLS session with the server that the request is sent to: null, with why, when there is none.
ssl_st* upstream_tls(Request& request, const char*& why);

// ---- what ngx.upstream shows ----

struct PeerView {
    std::string name, server;
    int weight, current_weight, effective_weight, conns, fails, max_fails, max_conns;
    int64_t fail_timeout_s, accessed_s, checked_s;
    bool down;
};
struct ServerView {
    std::string name;
    std::vector<std::string> addresses;
    int weight, max_fails;
    int64_t fail_timeout_s;
    bool backup, down;
};
std::vector<std::string> upstream_names();
// False: no such upstream.
bool upstream_servers(core::Slice upstream, std::vector<ServerView>& to);
bool upstream_peers(core::Slice upstream, bool backup, std::vector<PeerView>& to);
// Null, or what is wrong.
const char* set_upstream_peer_down(core::Slice upstream, bool backup, int index, bool down);

struct NewPeer {
    std::string address;                   // "127.0.0.1:8080", "[::1]:80", "unix:/path"
    int weight = 1, max_conns = 0, max_fails = 1;
    int64_t fail_timeout_s = 10, slow_start_ms = 0;
    bool backup = false, down = false;
};
// Replaces the servers of an upstream in all workers at once. An empty text, or what is wrong.
std::string replace_upstream_peers(core::Slice upstream, const std::vector<NewPeer>& peers);

// For directives: of the group being bound.
conf::Result<void> set_binding_chooser(std::shared_ptr<PeerChooser> chooser,
                                       const conf::Line& line);
conf::Result<void> set_binding_pool(uint32_t connections);

}  // namespace server
