// A loaded configuration: immutable once loaded, one per process generation. Made by load(), which
// parses, binds, inherits, prepares every module and builds the routing tables and phase steps.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "conf/binder.h"
#include "conf/tree.h"
#include "core/log.h"
#include "core/regex.h"
#include "core/socket.h"
#include "server/module.h"

namespace server {

struct CoreConf;         // server/http/core_conf.h
struct MainConf;         // server/main_conf.h
class VariableTable;     // server/http/variables.h
class NameTable;         // server/http/router.h
class LocationTree;      // server/http/router.h
struct ServerTls;        // server/http/server_tls.h
struct StreamBlocks;     // server/stream/blocks.h
struct StreamServer;     // server/stream/blocks.h
struct VirtualServer;

// One handler call of a request's way through the phases. A location's steps stand in one array,
// ended by a step of the content phase that always answers.
struct Step {
    Verdict (*run)(Request&);
    Phase phase;
    uint16_t phase_end;      // index of the first step of the next phase
};

// A location, or the part of a server outside every location (`kind == server_root`).
struct Location {
    enum Kind : uint8_t { server_root, exact, prefix, prefix_no_regex, regex, named, if_block,
                          limit_except };

    Kind kind = prefix;
    std::string name;                        // as written, without modifier
    VirtualServer* server = nullptr;
    Location* outer = nullptr;               // enclosing location; null directly in a server
    std::shared_ptr<const core::Regex> pattern;
    std::vector<std::pair<int, int>> captures;   // of pattern: group, variable index
    // "/dir" is answered with a redirect to this location "/dir/" (proxy_pass and its kin set it).
    bool slash_redirect = false;
    std::vector<std::unique_ptr<Location>> nested;   // if and limit_except blocks included
    Location* except_block = nullptr;        // limit_except: for methods not in except_allows
    uint32_t except_allows = 0;              // bits: 1 << Method
    std::unique_ptr<LocationTree> tree;      // nested locations, for routing; null without any
    std::unique_ptr<conf::Level> level;
    conf::Place place;

    // The location's content handler (proxy_pass, content_by_lua, …): set while directives are
    // bound, through set_content_handler(); of several the last one wins, as in nginx.
    Verdict (*content_handler)(Request&) = nullptr;

    // Built after binding.
    void* const* confs = nullptr;
    const CoreConf* core = nullptr;
    std::vector<Step> steps;                 // rewrite … content
    std::vector<Step> log_steps;
    struct HeaderFilter { FilterSlot slot; Verdict (*run)(Request&); };
    std::vector<HeaderFilter> header_filters;

    template <class Conf>
    const Conf& conf(const Module& module) const {
        return *static_cast<const Conf*>(confs[module.index]);
    }
};

struct ServerName {
    std::string text;                             // as written
    std::shared_ptr<const core::Regex> pattern;   // for ~regex
    std::vector<std::pair<int, int>> captures;    // group, variable index
};

// One server {} block.
struct VirtualServer {
    std::vector<ServerName> names;
    Location root;                           // confs of the server level; steps of server_rewrite
    std::vector<Step> entry_steps;           // post_read, server_rewrite, find_config
    std::vector<std::unique_ptr<Location>> named;
    std::shared_ptr<const ServerTls> tls;    // null without certificates
    conf::Place place;
    // This worker's row for its requests, of the status module; null: not counted.
    std::atomic<int64_t>* counters = nullptr;

    // The first name, without the dot of ".example.com".
    core::Slice name() const {
        core::Slice first = names.empty() ? core::Slice{} : core::Slice(names.front().text);
        return first.starts_with('.') ? first.substr(1) : first;
    }
};

// A `listen` address with everything that was said about it.
struct ListenAddress {
    core::Address address;
    core::ListenOptions options;
    bool ssl = false;
    bool http2 = false;
    bool proxy_protocol = false;
    bool default_given = false;
    bool options_given = false;
    std::string text;
    VirtualServer* default_server = nullptr;
    std::vector<VirtualServer*> servers;
    StreamServer* stream = nullptr;          // of stream{}: whose it is; then no HTTP is spoken
    std::unique_ptr<NameTable> names;        // null when the default server takes every name
    std::vector<int> fds;                    // bound by the master; one a worker with reuseport
    // An address covered by a wildcard on its port is not bound itself: connections to it come in
    // there, and are given to it by their local address.
    ListenAddress* wildcard = nullptr;
    std::vector<ListenAddress*> specific;    // of a wildcard: the addresses it covers
};

struct LoadOptions {
    std::string path;                        // configuration file
    std::string prefix;                      // with a trailing slash
    std::string error_log;                   // -e, empty when not given
    std::vector<std::string> globals;        // -g
    bool test_only = false;                  // -t
};

class Configuration {
  public:
    static core::Result<std::unique_ptr<Configuration>> load(const LoadOptions& options);
    ~Configuration();

    // The configuration of this process (the one being loaded, while load() runs).
    static Configuration& current();
    void make_current();

    const LoadOptions& options() const { return options_; }
    const conf::Tree& tree() const { return tree_; }
    conf::Binder& binder() { return *binder_; }
    VariableTable& variables() { return *variables_; }

    // The outermost and the http{} level's conf of a module.
    template <class Conf>
    Conf& main(const Module& module) { return *static_cast<Conf*>(main_level_->get(module.index)); }
    template <class Conf>
    Conf& http(const Module& module) { return *static_cast<Conf*>(http_level_->get(module.index)); }
    conf::Level& main_level() { return *main_level_; }
    conf::Level* http_level() { return http_level_.get(); }       // null without http{}

    // Which server or location the directive being bound stands in (null in http{} or main).
    VirtualServer* binding_server = nullptr;
    Location* binding_location = nullptr;

    std::vector<std::unique_ptr<VirtualServer>> servers;
    std::vector<std::unique_ptr<ListenAddress>> listens;
    // Every location of every server, if-blocks included, in order of creation.
    std::vector<Location*> locations;
    std::vector<conf::Level*> levels;                             // for inheritance, outer first
    std::unique_ptr<StreamBlocks> stream;                         // null without stream{}
    core::Log error_log;                                          // the main error_log
    // Set while init_process runs (ngx.process.enable_privileged_agent): one more process, which
    // keeps the master's user and accepts nothing, may have so many connections. Negative: none.
    int64_t privileged_agent_connections = -1;
    // Some location shows the server's metrics (resty_status): workers count.
    bool counts_metrics = false;

    // Makes the http{} level; called by the `http` directive.
    conf::Result<void> bind_http(const conf::Line& line);
    // For `listen`: `server` listens on this address, alone or with others. `parsed` holds what the
    // directive said (address, options, flags, the *_given marks); servers are filled in here.
    conf::Result<void> add_listen(ListenAddress&& parsed, VirtualServer& server,
                                  const conf::Line& line);
    // For `listen` in stream{}: an address of one server, which `parsed` names.
    conf::Result<void> add_stream_listen(ListenAddress&& parsed);

  private:
    Configuration() = default;
    core::Result<void> read();
    core::Result<void> bind();
    core::Result<void> prepare();
    core::Result<void> open_default_log();
    core::Result<void> build_routes();
    core::Result<void> build_names(ListenAddress& listen);
    void cover_by_wildcards();

    LoadOptions options_;
    conf::Tree tree_;
    std::unique_ptr<conf::Binder> binder_;
    std::unique_ptr<VariableTable> variables_;
    std::unique_ptr<conf::Level> main_level_;
    std::unique_ptr<conf::Level> http_level_;
};

// While a location's directives are bound: claims its content phase.
conf::Result<void> set_content_handler(const conf::Line& line, Verdict (*handler)(Request&));

}  // namespace server
