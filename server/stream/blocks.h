// What a stream{} block comes to: its servers, their settings, and the places they proxy to. Made
// by stream_module.cpp while the configuration is read; sessions (session.h) look things up here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/log.h"
#include "server/upstream/peers.h"

namespace server {

struct ServerTls;   // server/http/server_tls.h

// An upstream{} block, or the one server that proxy_pass names. Peers' counters are each worker's.
struct StreamTarget {
    StreamTarget() = default;
    StreamTarget(const StreamTarget&) = delete;
    StreamTarget& operator=(const StreamTarget&) = delete;
    ~StreamTarget() {
        if (table) store.drop(table);
    }

    std::string name;
    conf::Place place;
    std::vector<PeerSpec> servers;
    bool least_conn = false;
    PeerStore store;
    PeerTable* table = nullptr;
};

enum class StreamHandler : uint8_t { none, proxy, text };

struct StreamConf {
    // Of one server{}: what becomes of its connections.
    StreamHandler handler = StreamHandler::none;
    std::string pass;                      // as written
    conf::Place pass_place;
    std::string text;                      // return
    const StreamTarget* target = nullptr;

    conf::Setting<conf::Milliseconds> connect_timeout{conf::Milliseconds{60000}};
    conf::Setting<conf::Milliseconds> timeout{conf::Milliseconds{600000}};
    conf::Setting<conf::Milliseconds> handshake_timeout{conf::Milliseconds{60000}};
    conf::Setting<bool> half_close{false}, next_upstream{true}, socket_keepalive{false};
    conf::Setting<bool> tcp_nodelay{true};
    std::shared_ptr<core::Log> error_log;  // null: the process's
};

struct StreamServer {
    std::unique_ptr<conf::Level> level;
    conf::Place place;
    const StreamConf* conf = nullptr;      // known when everything has been inherited
    std::shared_ptr<const ServerTls> tls;  // null without certificates
    bool listens = false;
};

struct StreamBlocks {
    std::unique_ptr<conf::Level> level;
    std::vector<std::unique_ptr<conf::Level>> upstream_levels;
    std::vector<std::unique_ptr<StreamServer>> servers;
    std::vector<std::unique_ptr<StreamTarget>> upstreams;
    std::vector<std::unique_ptr<StreamTarget>> named;     // by proxy_pass alone
};

}  // namespace server
