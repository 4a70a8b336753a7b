// realip: takes the client's address from what a trusted proxy says (a header field or the PROXY
// protocol). The connection's own address is put back when the request ends.
#include <netdb.h>

#include <cstring>

#include "core/text.h"
#include "server/config_stamp.h"
#include "server/http/cidr.h"
#include "server/http/connection.h"
#include "server/http/proxy_header.h"
#include "server/http/request.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Address;
using core::Error;
using core::Slice;

enum class Source : uint8_t { x_real_ip, forwarded_for, proxy_protocol, field };

struct RealIpConf {
    std::vector<Cidr> from;
    Source source = Source::x_real_ip;
    bool source_given = false;
    std::string field;
    conf::Setting<bool> recursive{false};
};

// Of the client's request. Lives in its arena, so that the address comes back with its end.
struct Replaced {
    Connection* connection;
    core::CompactAddress original;
    Replaced(Connection* on, core::CompactAddress address) : connection(on), original(address) {}
    ~Replaced() { connection->peer = original; }
};

extern const Module module_realip;

bool names(const RealIpConf& conf, const Header& header) {
    switch (conf.source) {
    case Source::x_real_ip: return header.id == HeaderId::x_real_ip;
    case Source::forwarded_for: return header.id == HeaderId::x_forwarded_for;
    case Source::field: return core::iequals(header.name, conf.field);
    case Source::proxy_protocol: return false;
    }
    return false;
}

Verdict replace(Request& request) {
    const RealIpConf& conf = request.conf<RealIpConf>(module_realip);
    Request& main = *request.main;
    if (conf.from.empty() || main.state<Replaced>(module_realip)) return Verdict::decline();
    constexpr size_t fields_max = 32;
    Slice values[fields_max];
    size_t count = 0;
    if (conf.source == Source::proxy_protocol) {
        const ProxyHeader* proxy = request.connection.proxy.get();
        if (proxy && !proxy->source.empty()) values[count++] = proxy->source;
    }
    for (const Header& header : request.headers) {
        if (header.removed || !names(conf, header)) continue;
        // Only of X-Forwarded-For are all the fields looked at.
        if (conf.source != Source::forwarded_for && count == 1) break;
        if (count < fields_max) values[count++] = header.value;
    }
    Address address = request.connection.peer;
    if (count == 0 ||
        !forwarded_address(address, values, count, conf.from, conf.recursive)) {
        return Verdict::decline();
    }
    auto* replaced = main.arena.make<Replaced>(&request.connection, request.connection.peer);
    main.set_state(module_realip, replaced);
    if (conf.source == Source::proxy_protocol) {
        address.set_port(request.connection.proxy->source_port);
    }
    request.connection.peer = address;
    return Verdict::decline();
}

Address original_address(Request& request) {
    const Replaced* replaced = request.main->state<Replaced>(module_realip);
    return replaced ? replaced->original : request.connection.peer;
}

Value get_address(Request& request, Slice, uintptr_t) {
    char room[128];
    return request.arena.copy(original_address(request).ip_into(room, sizeof(room)));
}

Value get_port(Request& request, Slice, uintptr_t) {
    int port = original_address(request).port();
    if (port <= 0) return Slice("", 0);
    char room[24];
    return request.arena.copy(core::format_number(port, room));
}

// ---- directives ----

Result<void> add_host(RealIpConf& conf, const Line& line) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    std::string host(line.arg(0));
    if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) {
        return Error{"host not found in set_real_ip_from \"" + host + "\""};
    }
    std::vector<std::string> texts;
    for (addrinfo* at = found; at; at = at->ai_next) {
        Address address;
        std::memcpy(&address.any, at->ai_addr, at->ai_addrlen);
        address.size = at->ai_addrlen;
        Cidr network;
        if (!Cidr::parse(address.ip_text(), network)) continue;
        conf.from.push_back(network);
        texts.push_back(address.ip_text());
    }
    note_looked_up(host, texts);
    freeaddrinfo(found);
    return {};
}

Result<void> add_trusted(RealIpConf& conf, const Line& line) {
    Cidr network;
    if (!Cidr::parse(line.arg(0), network)) return add_host(conf, line);
    if (network.low_bits_dropped) {
        line.binder.warn(line.node.place, "low address bits of " + std::string(line.arg(0)) +
                                              " are meaningless");
    }
    conf.from.push_back(network);
    return {};
}

Result<void> set_source(RealIpConf& conf, const Line& line) {
    if (conf.source_given) return Error{"is duplicate"};
    conf.source_given = true;
    Slice name = line.arg(0);
    conf.source = name == "X-Real-IP"         ? Source::x_real_ip
                  : name == "X-Forwarded-For" ? Source::forwarded_for
                  : name == "proxy_protocol"  ? Source::proxy_protocol
                                              : Source::field;
    conf.field = name;
    return {};
}

Result<void> merge(RealIpConf& conf, const RealIpConf* outer, conf::Binder&) {
    if (!outer) return {};
    if (conf.from.empty()) conf.from = outer->from;
    if (!conf.source_given) {
        conf.source_given = outer->source_given;
        conf.source = outer->source;
        conf.field = outer->field;
    }
    return {};
}

bool is_on(const void* conf) { return !static_cast<const RealIpConf*>(conf)->from.empty(); }

constexpr conf::Directive directives[] = {
    {"set_real_ip_from", conf::in_any_http, conf::takes(1), conf::call<add_trusted>},
    {"real_ip_header", conf::in_any_http, conf::takes(1), conf::call<set_source>},
    {"real_ip_recursive", conf::in_any_http, conf::takes_flag(),
     conf::field<&RealIpConf::recursive>},
};

constexpr Variable variables[] = {
    {"realip_remote_addr", get_address},
    {"realip_remote_port", get_port},
};

constexpr PhaseHandler handlers[] = {
    {Phase::post_read, rank::early, replace, is_on},
    {Phase::preaccess, rank::early, replace, is_on},
};

const Module module_realip{
    .name = "http_realip",
    .conf = conf_with_merge<RealIpConf, merge>,
    .directives = directives,
    .variables = variables,
    .handlers = handlers,
    .has_request_state = true,
    .state_outlives_redirects = true,
};
REGISTER_MODULE(module_realip);

}  // namespace

}  // namespace server
