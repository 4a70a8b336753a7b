// The stream{} block: its servers, their listen addresses, proxy_pass and return, and upstream{}
// within it. What its connections then do is in session.cpp; ssl_* are http/modules/ssl.cpp's.
#include <algorithm>
#include <cctype>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/text.h"
#include "server/config.h"
#include "server/error_log.h"
#include "server/http/router.h"
#include "server/listen_line.h"
#include "server/stream/blocks.h"
#include "server/upstream/server_line.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

extern const Module stream_module;

// What is being bound.
StreamServer* binding_server = nullptr;
StreamTarget* binding_upstream = nullptr;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

std::unique_ptr<conf::Level> inner_level(const Line& line, uint32_t context) {
    return std::make_unique<conf::Level>(line.binder.module_count(), &line.binder.current(),
                                         context);
}

// ---- blocks ----

Result<void> add_stream(StreamConf&, const Line& line) {
    Configuration& configuration = Configuration::current();
    if (configuration.stream) return conf::detail::duplicate();
    configuration.stream = std::make_unique<StreamBlocks>();
    StreamBlocks& blocks = *configuration.stream;
    blocks.level = inner_level(line, conf::in_stream);
    configuration.levels.push_back(blocks.level.get());
    return line.binder.bind_block(line, *blocks.level);
}

Result<void> add_server(StreamConf&, const Line& line) {
    Configuration& configuration = Configuration::current();
    auto& server = *configuration.stream->servers.emplace_back(std::make_unique<StreamServer>());
    server.place = line.node.place;
    server.level = inner_level(line, conf::in_stream_server);
    configuration.levels.push_back(server.level.get());
    line.binder.own(*server.level, stream_module.index);
    binding_server = &server;
    auto bound = line.binder.bind_block(line, *server.level);
    binding_server = nullptr;
    if (bound && !server.listens) return Error{"no \"listen\" is defined for stream server"};
    return bound;
}

Result<void> add_upstream(StreamConf&, const Line& line) {
    StreamBlocks& blocks = *Configuration::current().stream;
    Slice name = line.arg(0);
    for (const auto& known : blocks.upstreams) {
        if (core::iequals(known->name, name)) return Error{"duplicate upstream " + quoted(name)};
    }
    auto& target = *blocks.upstreams.emplace_back(std::make_unique<StreamTarget>());
    target.name = name;
    target.place = line.node.place;
    blocks.upstream_levels.push_back(inner_level(line, conf::in_stream_upstream));
    binding_upstream = &target;
    auto bound = line.binder.bind_block(line, *blocks.upstream_levels.back());
    binding_upstream = nullptr;
    if (!bound) return bound;
    if (target.servers.empty()) return Error{"no servers are inside upstream"};
    bool primaries = std::any_of(target.servers.begin(), target.servers.end(),
                                 [](const PeerSpec& server) { return !server.backup; });
    if (!primaries) return Error{"no servers in upstream " + quoted(name)};
    return {};
}

// ---- servers of an upstream ----

// A line becomes a server for each address its name has.
Result<void> add_addresses(StreamTarget& target, ServerLine& line) {
    if (!line.host.empty()) line.addresses = look_up_host(line.host, line.port);
    if (line.addresses.empty()) {
        return Error{"host not found in upstream " + quoted(line.spec.server)};
    }
    for (const core::Address& address : line.addresses) {
        target.servers.push_back(line.spec);
        target.servers.back().address = address;
    }
    return {};
}

Result<void> add_upstream_server(StreamConf&, const Line& line) {
    for (size_t i = 1; i < line.count(); ++i) {
        // These need what a session of bytes has not: requests, or look-ups while it runs.
        for (Slice refused : {"resolve", "drain", "service=", "route="}) {
            if (line.arg(i).starts_with(refused)) return conf::invalid_parameter(line.arg(i));
        }
    }
    auto server = read_server_line(line, 0);
    if (!server) return server.take_error();
    return add_addresses(*binding_upstream, *server);
}

Result<void> set_least_conn(StreamConf&, const Line& line) {
    if (binding_upstream->least_conn) {
        line.binder.warn(line.node.place, "load balancing method redefined");
    }
    binding_upstream->least_conn = true;
    return {};
}

// ---- a server ----

Result<void> add_listen(StreamConf&, const Line& line) {
    auto addresses = read_listen_addresses(line.arg(0), 0);
    if (!addresses) return addresses.take_error();
    for (const core::Address& address : *addresses) {
        ListenAddress listen;
        listen.address = address;
        listen.stream = binding_server;
        for (size_t i = 1; i < line.count(); ++i) {
            if (line.arg(i) == "ssl") {
                listen.ssl = true;
                continue;
            }
            auto read = read_listen_parameter(listen, line.arg(i));
            if (!read) return read.take_error();
            if (!*read) return conf::invalid_parameter(line.arg(i));
        }
        auto added = Configuration::current().add_stream_listen(std::move(listen));
        if (!added) return added;
    }
    binding_server->listens = true;
    return {};
}

// Sessions have no variables: a "$" could only stand for itself.
Result<void> refuse_variables(Slice text) {
    size_t dollar = text.find('$');
    if (dollar == Slice::npos) return {};
    Slice name = text.substr(dollar + 1);
    size_t end = 0;
    while (end < name.size() && (std::isalnum(uint8_t(name[end])) || name[end] == '_')) ++end;
    return Error{"unknown " + quoted(name.substr(0, end)) + " variable"};
}

Result<void> set_proxy_pass(StreamConf& conf, const Line& line) {
    if (!conf.pass.empty()) return conf::detail::duplicate();
    if (auto plain = refuse_variables(line.arg(0)); !plain) return plain;
    conf.handler = StreamHandler::proxy;
    conf.pass = line.arg(0);
    conf.pass_place = line.node.place;
    return {};
}

Result<void> set_return(StreamConf& conf, const Line& line) {
    if (conf.handler == StreamHandler::text) return conf::detail::duplicate();
    if (auto plain = refuse_variables(line.arg(0)); !plain) return plain;
    conf.handler = StreamHandler::text;
    conf.text = line.arg(0);
    return {};
}

Result<void> set_error_log(StreamConf& conf, const Line& line) {
    if (!conf.error_log) conf.error_log = std::make_shared<core::Log>();
    return add_error_log(line, *conf.error_log);
}

constexpr uint32_t where = conf::in_stream | conf::in_stream_server;
constexpr uint32_t in_server = conf::in_stream_server;
constexpr uint32_t in_upstream = conf::in_stream_upstream;
// Sessions are not logged yet: only what asks for that is right.
Result<void> set_access_log(StreamConf&, const Line& line) {
    if (line.count() == 1 && line.arg(0) == "off") return {};
    return conf::directive_error(line, "is not available in stream, but for \"off\"");
}

constexpr conf::Directive directives[] = {
    {"access_log", where, conf::takes_at_least(1), conf::call<set_access_log>},
    {"stream", conf::in_main, conf::takes_block(), conf::call<add_stream>},
    {"server", conf::in_stream, conf::takes_block(), conf::call<add_server>},
    {"upstream", conf::in_stream, conf::takes_block(1), conf::call<add_upstream>},
    {"server", in_upstream, conf::takes_at_least(1), conf::call<add_upstream_server>},
    {"least_conn", in_upstream, conf::takes(0), conf::call<set_least_conn>},
    {"listen", in_server, conf::takes_at_least(1), conf::call<add_listen>},
    {"proxy_pass", in_server, conf::takes(1), conf::call<set_proxy_pass>},
    {"return", in_server, conf::takes(1), conf::call<set_return>},
    {"error_log", where, conf::takes_at_least(1), conf::call<set_error_log>},
    {"tcp_nodelay", where, conf::takes_flag(), conf::field<&StreamConf::tcp_nodelay>},
    {"proxy_connect_timeout", where, conf::takes(1), conf::field<&StreamConf::connect_timeout>},
    {"proxy_timeout", where, conf::takes(1), conf::field<&StreamConf::timeout>},
    {"proxy_half_close", where, conf::takes_flag(), conf::field<&StreamConf::half_close>},
    {"proxy_next_upstream", where, conf::takes_flag(), conf::field<&StreamConf::next_upstream>},
    {"proxy_socket_keepalive", where, conf::takes_flag(),
     conf::field<&StreamConf::socket_keepalive>},
    {"ssl_handshake_timeout", where, conf::takes(1), conf::field<&StreamConf::handshake_timeout>},
};

Result<void> merge(StreamConf& conf, const StreamConf* outer, conf::Binder&) {
    if (outer && !conf.error_log) conf.error_log = outer->error_log;
    return {};
}

// ---- once everything is known ----

// What proxy_pass names: an upstream{} of the block, or a server.
Result<const StreamTarget*> find_target(StreamBlocks& blocks, const StreamConf& conf) {
    for (const auto& upstream : blocks.upstreams) {
        if (core::iequals(upstream->name, conf.pass)) return upstream.get();
    }
    conf::Node node;
    node.name = "server";
    node.args.push_back(conf.pass);
    conf::Binder& binder = Configuration::current().binder();
    auto server = read_server_line(Line{node, binder, conf::in_stream_upstream}, 0);
    if (!server) return server.take_error();
    auto& target = *blocks.named.emplace_back(std::make_unique<StreamTarget>());
    target.name = conf.pass;
    auto added = add_addresses(target, *server);
    if (!added) return added.take_error();
    return &target;
}

Result<void> prepare_server(StreamBlocks& blocks, StreamServer& server, conf::Binder& binder) {
    auto& conf = *static_cast<StreamConf*>(server.level->get(stream_module.index));
    server.conf = &conf;
    if (conf.handler == StreamHandler::none) {
        return Error{"no handler for server" + conf::place_suffix(server.place)};
    }
    if (conf.handler != StreamHandler::proxy) return {};
    auto target = find_target(blocks, conf);
    if (!target) return binder.error_at(conf.pass_place, target.error().what);
    conf.target = *target;
    return {};
}

Result<void> prepare(Configuration& configuration) {
    if (!configuration.stream) return {};
    StreamBlocks& blocks = *configuration.stream;
    for (auto& server : blocks.servers) {
        auto prepared = prepare_server(blocks, *server, configuration.binder());
        if (!prepared) return prepared;
    }
    for (auto* targets : {&blocks.upstreams, &blocks.named}) {
        for (auto& target : *targets) {
            target->table = target->store.make(target->servers, nullptr, 1);
        }
    }
    return {};
}

constinit const Module stream_module{
    .name = "stream",
    .conf = conf_with_merge<StreamConf, merge>,
    .directives = directives,
    .prepare = prepare,
};
REGISTER_MODULE(stream_module);

}  // namespace

}  // namespace server
