// Routing tables: server names of an address, locations of a server; and the two functions that ask
// them for a request. Built once while a configuration is loaded.
#include "server/http/router.h"

#include <algorithm>

#include "core/text.h"
#include "server/http/connection.h"
#include "server/http/core_conf.h"
#include "server/http/escape.h"
#include "server/http/request.h"
#include "server/http/server_tls.h"

namespace server {

using core::Slice;

// ---- server names ----

core::Result<void> NameTable::add(const ServerName& name, VirtualServer* server,
                                  std::string& warning) {
    if (name.pattern) {
        regex_.emplace_back(&name, server);
        return {};
    }
    using Hosts = HostMap<VirtualServer*>;
    switch (hosts_.add(name.text, server, true)) {
    case Hosts::Added::yes: break;
    case Hosts::Added::known:
        warning = "conflicting server name \"" + name.text + "\", ignored";
        break;
    case Hosts::Added::invalid:
        return core::Error{"invalid server name or wildcard \"" + name.text + "\""};
    }
    return {};
}

VirtualServer* NameTable::find(Slice host, Request* request) const {
    if (VirtualServer* const* known = hosts_.find(host)) return *known;
    if (host.empty()) return nullptr;
    for (auto [name, server] : regex_) {
        if (request) {
            if (match_captures(*request, *name->pattern, host, name->captures)) return server;
            continue;
        }
        uint32_t offsets[2];
        if (name->pattern->match(host, 0, offsets, 1) >= 0) return server;
    }
    return nullptr;
}

namespace {

// A wildcard address also receives for the addresses of its port that are listed one by one.
const ListenAddress& receiving_address(Connection& connection) {
    const ListenAddress& listen = connection.listen;
    if (listen.specific.empty()) return listen;
    const core::Address& local = connection.local();
    for (const ListenAddress* specific : listen.specific) {
        if (specific->address == local) return *specific;
    }
    return listen;
}

// Who speaks TLS has named its server in the handshake already.
VirtualServer* default_server(Connection& connection, const ListenAddress& listen) {
    if (const core::TlsSession* session = connection.stream.tls()) [[unlikely]] {
        if (const VirtualServer* named = negotiated_server(*session)) {
            return const_cast<VirtualServer*>(named);
        }
    }
    return listen.default_server;
}

}  // namespace

void find_server(Request& request) {
    const ListenAddress& listen = receiving_address(request.connection);
    VirtualServer* server = listen.names ? listen.names->find(request.head.host, &request)
                                         : nullptr;
    if (!server) server = default_server(request.connection, listen);
    if (server == request.server && request.location == &server->root) return;
    request.server = server;
    request.location = &server->root;
    if (request.location->core->error_log) {
        request.log.log = request.location->core->error_log.get();
    }
}

// ---- locations ----

LocationTree::LocationTree(const std::vector<std::unique_ptr<Location>>& locations) {
    for (const auto& location : locations) {
        switch (location->kind) {
        case Location::exact: exact_.emplace(location->name, location.get()); break;
        case Location::prefix:
        case Location::prefix_no_regex: prefixes_.push_back(location.get()); break;
        case Location::regex: regexes_.push_back(location.get()); break;
        default: continue;
        }
        any_slash_redirect_ = any_slash_redirect_ || location->slash_redirect;
    }
    std::sort(prefixes_.begin(), prefixes_.end(),
              [](const Location* a, const Location* b) { return a->name < b->name; });
    // In sorted order the prefixes of a name are the names still open on the way to it.
    outer_prefix_.resize(prefixes_.size());
    for (size_t i = 0; i < prefixes_.size(); ++i) {
        int outer = int(i) - 1;
        while (outer >= 0 && !prefixes_[i]->name.starts_with(prefixes_[size_t(outer)]->name)) {
            outer = outer_prefix_[size_t(outer)];
        }
        outer_prefix_[i] = outer;
    }
}

LocationTree::~LocationTree() = default;

const Location* LocationTree::slash_location(Slice path) const {
    std::string with_slash(path);
    with_slash += '/';
    auto exact = exact_.find(with_slash);
    if (exact != exact_.end() && exact->second->slash_redirect) return exact->second;
    for (const Location* location : prefixes_) {
        if (location->slash_redirect && location->name == with_slash) return location;
    }
    return nullptr;
}

LocationTree::Match LocationTree::find_prefix(Slice path) const {
    if (!exact_.empty()) {
        auto exact = exact_.find(path);
        if (exact != exact_.end()) return {exact->second};
    }
    // The last name that does not sort behind the path has every prefix of the path as its own.
    auto behind = std::upper_bound(
        prefixes_.begin(), prefixes_.end(), path,
        [](Slice text, const Location* location) { return text < Slice(location->name); });
    int at = int(behind - prefixes_.begin()) - 1;
    while (at >= 0 && !path.starts_with(prefixes_[size_t(at)]->name)) {
        at = outer_prefix_[size_t(at)];
    }
    Location* found = at >= 0 ? prefixes_[size_t(at)] : nullptr;
    bool whole = found && found->name.size() == path.size();
    if (any_slash_redirect_ && !whole) {
        if (auto* slash = slash_location(path)) return {const_cast<Location*>(slash), true};
    }
    return {found};
}

Location* LocationTree::find_regex(Request& request, Slice path) const {
    for (Location* location : regexes_) {
        if (match_captures(request, *location->pattern, path, location->captures)) return location;
    }
    return nullptr;
}

namespace {

struct Search {
    LocationTree::Match match;
    bool settled = false;      // nothing further out may override it
};

// nginx's order: the longest prefix, then within it; a regular expression of this level overrides
// what was found unless that was exact, a redirect, or "^~".
Search search(Request& request, const Location& outer, Slice path) {
    if (!outer.tree) return {};
    Search found{outer.tree->find_prefix(path)};
    Location* location = found.match.location;
    if (found.match.redirect_to_slash || (location && location->kind == Location::exact)) {
        found.settled = true;
        return found;
    }
    bool no_regex = false;
    if (location) {
        no_regex = location->kind == Location::prefix_no_regex;
        Search inner = search(request, *location, path);
        if (inner.settled) return inner;
        if (inner.match.location) found = inner;
    }
    if (no_regex) return found;
    if (Location* matched = outer.tree->find_regex(request, path)) {
        Search inner = search(request, *matched, path);
        if (!inner.match.location) inner.match = {matched};
        inner.settled = true;
        return inner;
    }
    return found;
}

Verdict redirect_to_slash(Request& request, const Location& location) {
    Slice name = escape(request.arena, location.name, Escape::uri);
    core::Appender target(request.arena);
    target.append(name);
    if (!request.args.empty()) {
        target.append('?');
        target.append(request.args);
    }
    request.response.location = target.take();
    return Verdict::reject(301);
}

}  // namespace

LocationTree::Match find_location(Request& request, const Location& outer, Slice path) {
    return search(request, outer, path).match;
}

Verdict find_config(Request& request) {
    LocationTree::Match match = find_location(request, request.server->root, request.uri);
    const Location* location = match.location ? match.location : &request.server->root;
    request.location = location;
    request.uri_changed = false;
    if (location->core->internal && !request.internal) return Verdict::reject(404);
    if (location->except_block && !(location->except_allows & (1u << int(request.method)))) {
        location = request.location = location->except_block;
    }
    const CoreConf& conf = *location->core;
    if (conf.error_log) request.log.log = conf.error_log.get();
    int64_t body = request.body.content_length, body_max = conf.client_max_body_size->count;
    if (body > body_max && body_max != 0 && !request.parent) {
        LOG(request.log, error, 0, "client intended to send too large body: %lld bytes",
            static_cast<long long>(body));
        return Verdict::reject(413);
    }
    if (match.redirect_to_slash) return redirect_to_slash(request, *match.location);
    return Verdict::decline();
}

}  // namespace server
