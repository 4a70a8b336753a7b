// The listen addresses of a configuration: which servers share one, who is its default, and which
// are covered by a wildcard. Wording of errors as nginx has it.
#include <algorithm>

#include "core/text.h"
#include "server/config.h"
#include "server/http/router.h"

namespace server {

namespace {

conf::Result<void> merge_options(ListenAddress& into, ListenAddress& parsed) {
    if (parsed.options_given) {
        if (into.options_given) {
            return conf::Error{"duplicate listen options for " + into.address.text()};
        }
        into.options = parsed.options;
        into.options_given = true;
    }
    if (parsed.default_given && into.default_given) {
        return conf::Error{"a duplicate default server for " + into.address.text()};
    }
    return {};
}

conf::Error taken(const ListenAddress& listen) {
    return {"duplicate \"" + listen.address.text() + "\" address and port pair"};
}

auto same_as(const ListenAddress& parsed) {
    return [&](const auto& known) {
        return known->address == parsed.address && known->options.type == parsed.options.type;
    };
}

bool covers(const ListenAddress& wildcard, const ListenAddress& other) {
    return &wildcard != &other && wildcard.address.is_wildcard() &&
           wildcard.address.family() == other.address.family() &&
           wildcard.address.port() == other.address.port() &&
           wildcard.options.type == other.options.type;
}

}  // namespace

conf::Result<void> Configuration::add_listen(ListenAddress&& parsed, VirtualServer& server,
                                             const conf::Line& line) {
    auto found = std::find_if(listens.begin(), listens.end(), same_as(parsed));
    if (found == listens.end()) {
        parsed.default_server = &server;
        parsed.servers.push_back(&server);
        if (parsed.text.empty()) parsed.text = parsed.address.text();
        listens.push_back(std::make_unique<ListenAddress>(std::move(parsed)));
        return {};
    }
    ListenAddress& into = **found;
    if (into.stream) return taken(into);
    auto& sharing = into.servers;
    if (std::find(sharing.begin(), sharing.end(), &server) != sharing.end()) {
        return conf::Error{"a duplicate listen " + parsed.address.text()};
    }
    auto merged = merge_options(into, parsed);
    if (!merged) return merged;
    bool protocol_given = parsed.ssl || parsed.http2 || parsed.proxy_protocol;
    if (protocol_given && (parsed.ssl != into.ssl || parsed.http2 != into.http2 ||
                           parsed.proxy_protocol != into.proxy_protocol)) {
        line.binder.warn(line.node.place,
                         "protocol options redefined for " + into.address.text());
    }
    into.ssl |= parsed.ssl;
    into.http2 |= parsed.http2;
    into.proxy_protocol |= parsed.proxy_protocol;
    if (parsed.default_given) {
        into.default_given = true;
        into.default_server = &server;
    }
    sharing.push_back(&server);
    return {};
}

conf::Result<void> Configuration::add_stream_listen(ListenAddress&& parsed) {
    auto found = std::find_if(listens.begin(), listens.end(), same_as(parsed));
    if (found != listens.end()) return taken(**found);
    parsed.text = parsed.address.text();
    listens.push_back(std::make_unique<ListenAddress>(std::move(parsed)));
    return {};
}

core::Result<void> Configuration::build_routes() {
    cover_by_wildcards();
    for (auto& listen : listens) {
        if (listen->stream) continue;
        auto built = build_names(*listen);
        if (!built) return built;
    }
    return {};
}

core::Result<void> Configuration::build_names(ListenAddress& listen) {
    auto takes_captures = [](const VirtualServer* server) {
        return std::any_of(server->names.begin(), server->names.end(),
                           [](const ServerName& name) { return name.pattern != nullptr; });
    };
    if (listen.servers.size() == 1 && !takes_captures(listen.servers[0])) return {};
    listen.names = std::make_unique<NameTable>();
    for (VirtualServer* server : listen.servers) {
        for (const ServerName& name : server->names) {
            std::string warning;
            auto added = listen.names->add(name, server, warning);
            if (!added) return added;
            if (warning.empty()) continue;
            LOG(core::process_log(), warn, 0, "conflicting server name \"%s\" on %s, ignored",
                name.text.c_str(), listen.address.text().c_str());
        }
    }
    return {};
}

// On Linux an address cannot be bound beside the wildcard of its port.
void Configuration::cover_by_wildcards() {
    for (auto& wildcard : listens) {
        for (auto& other : listens) {
            if (!covers(*wildcard, *other)) continue;
            other->wildcard = wildcard.get();
            wildcard->specific.push_back(other.get());
        }
    }
}

}  // namespace server
