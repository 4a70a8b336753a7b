// Routing: which server a request's host names, which location its path falls into.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "conf/directive.h"
#include "core/slice.h"
#include "server/config.h"
#include "server/http/host_map.h"

namespace server {

class Request;

// The server names of one listen address: exact, *.suffix, prefix.*, regex, in that order.
class NameTable {
  public:
    core::Result<void> add(const ServerName& name, VirtualServer* server, std::string& warning);
    // Regex names set captures in `request` when given (null while only TLS knows the name).
    VirtualServer* find(core::Slice host, Request* request) const;

  private:
    HostMap<VirtualServer*> hosts_;
    std::vector<std::pair<const ServerName*, VirtualServer*>> regex_;
};

// The locations of one level: exact and prefix ones by longest match, then regular expressions in
// order of appearance.
class LocationTree {
  public:
    explicit LocationTree(const std::vector<std::unique_ptr<Location>>& locations);
    ~LocationTree();
    LocationTree(const LocationTree&) = delete;

    struct Match {
        Location* location = nullptr;    // null: none at this level
        // The path is a location's name but for the missing slash, and that location wants
        // a redirect to it (proxy_pass).
        bool redirect_to_slash = false;
    };
    // The exact location of that name, or else the longest prefix.
    Match find_prefix(core::Slice path) const;
    // The first regular expression that matches. Sets captures in the request.
    Location* find_regex(Request& request, core::Slice path) const;

  private:
    const Location* slash_location(core::Slice path) const;

    std::unordered_map<std::string_view, Location*> exact_;
    std::vector<Location*> prefixes_;    // sorted by name
    std::vector<int> outer_prefix_;      // index of the longest proper prefix of each, or -1
    std::vector<Location*> regexes_;
    bool any_slash_redirect_ = false;
};

// Sets request.location by its uri (the find_config phase).
Verdict find_config(Request& request);
// The innermost location for a path, nested ones included; null when none takes it.
LocationTree::Match find_location(Request& request, const Location& outer, core::Slice path);
// Sets request.server by its host (and the connection's local address).
void find_server(Request& request);

}  // namespace server
