// upstream {}: groups of servers, how one of them is chosen, the connections kept to them; and the
// $upstream_* variables of whoever asked them.
#include <algorithm>
#include <climits>

#include "core/arena.h"
#include "core/shm.h"
#include "core/text.h"
#include "server/config.h"
#include "server/http/core_conf.h"
#include "server/http/core_directives.h"
#include "server/http/request.h"
#include "server/upstream/group.h"
#include "server/upstream/server_line.h"
#include "server/upstream/states.h"
#include "server/worker.h"

namespace server {

extern const Module upstream;

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

// Room for what scripts say of groups at run time. Pages that are never touched cost nothing.
constexpr size_t updates_bytes = 8 << 20;

struct UpstreamConf {
    UpstreamGroups groups;                               // of the http level
    std::vector<std::unique_ptr<conf::Level>> levels;    // of the blocks
};

UpstreamGroup* binding = nullptr;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

Result<void> add_upstream(UpstreamConf& conf, const Line& line) {
    Slice name = line.arg(0);
    for (const auto& known : conf.groups.all) {
        if (core::iequals(known->name, name)) {
            return Error{"duplicate upstream " + quoted(name)};
        }
    }
    auto group = std::make_shared<UpstreamGroup>(std::string(name), line.node.place);
    conf.groups.all.push_back(group);
    conf.levels.push_back(std::make_unique<conf::Level>(
        line.binder.module_count(), &line.binder.current(), conf::in_upstream));
    binding = group.get();
    auto bound = line.binder.bind_block(line, *conf.levels.back());
    binding = nullptr;
    if (!bound) return bound;
    if (group->servers.empty() && group->chooser) {
        group->placeholder = true;
        ServerLine none;
        none.spec.server = "0.0.0.1";
        core::Address::parse_ip("0.0.0.1", none.addresses.emplace_back());
        none.addresses.back().set_port(80);
        group->servers.push_back(std::move(none));
    }
    if (group->servers.empty()) return Error{"no servers are inside upstream"};
    bool primaries = std::any_of(group->servers.begin(), group->servers.end(),
                                 [](const ServerLine& server) { return !server.spec.backup; });
    if (!primaries) return Error{"no servers in upstream " + quoted(name)};
    return {};
}

// ---- server ----

Result<void> add_server_line(UpstreamConf&, const Line& line) {
    constexpr int default_port = 80;
    auto server = read_server_line(line, default_port);
    if (!server) return server.take_error();
    binding->servers.push_back(std::move(*server));
    return {};
}

// ---- methods ----

Result<void> set_method(const Line& line, BalanceMethod method) {
    if (binding->method_set) {
        line.binder.warn(line.node.place, "load balancing method redefined");
    }
    binding->method_set = true;
    binding->method = method;
    return {};
}

Result<void> set_least_conn(UpstreamConf&, const Line& line) {
    return set_method(line, BalanceMethod::least_conn);
}

Result<void> set_ip_hash(UpstreamConf&, const Line& line) {
    return set_method(line, BalanceMethod::ip_hash);
}

Result<void> set_hash(UpstreamConf&, const Line& line) {
    auto key = ComplexValue::compile(line.arg(0), line);
    if (!key) return key.take_error();
    binding->hash_key = std::move(*key);
    if (line.count() == 1) return set_method(line, BalanceMethod::hash);
    if (line.arg(1) != "consistent") return conf::invalid_parameter(line.arg(1));
    return set_method(line, BalanceMethod::consistent_hash);
}

Result<void> set_random(UpstreamConf&, const Line& line) {
    if (line.count() == 0) return set_method(line, BalanceMethod::random);
    if (line.arg(0) != "two") return conf::invalid_parameter(line.arg(0));
    Slice by = line.count() == 2 ? line.arg(1) : Slice("least_conn");
    if (by == "least_conn") return set_method(line, BalanceMethod::random_two);
    if (by == "least_time" || by == "least_time=header") {
        return set_method(line, BalanceMethod::random_two_header);
    }
    if (by == "least_time=last_byte") {
        return set_method(line, BalanceMethod::random_two_last_byte);
    }
    return conf::invalid_parameter(by);
}

Result<void> set_least_time(UpstreamConf&, const Line& line) {
    if (line.count() == 2) {
        if (line.arg(1) != "inflight") return conf::invalid_parameter(line.arg(1));
        binding->counts_inflight = true;
    }
    if (line.arg(0) == "header") return set_method(line, BalanceMethod::least_time_header);
    if (line.arg(0) == "last_byte") return set_method(line, BalanceMethod::least_time_last_byte);
    return conf::invalid_value(line.arg(0));
}

// ---- connections and memory ----

Result<void> set_keepalive(UpstreamConf&, const Line& line) {
    if (binding->keepalive_set) return conf::detail::duplicate();
    auto count = core::parse_number(line.arg(0), INT_MAX);
    if (!count) return conf::invalid_value(line, line.arg(0));
    binding->keepalive_set = true;
    binding->keepalive.connections = uint32_t(*count);
    binding->keepalive_local = false;
    if (line.count() == 1) return {};
    if (line.arg(1) != "local") return conf::invalid_parameter(line.arg(1));
    binding->keepalive_local = true;
    return {};
}

Result<void> set_keepalive_requests(UpstreamConf&, const Line& line) {
    auto count = core::parse_number(line.arg(0), INT_MAX);
    if (!count) return Error{"invalid number"};
    binding->keepalive.requests = uint32_t(*count);
    return {};
}

template <int64_t ConnectionPool::Limits::*member>
Result<void> set_keepalive_ms(UpstreamConf&, const Line& line) {
    auto ms = conf::parse_time_ms(line.arg(0));
    if (!ms) return Error{"invalid value"};
    binding->keepalive.*member = *ms;
    return {};
}

Result<void> set_zone(UpstreamConf& conf, const Line& line) {
    if (!binding->zone_name.empty()) return conf::detail::duplicate();
    (void)conf;
    Slice name = line.arg(0);
    if (name.empty()) return Error{"invalid zone name " + quoted(name)};
    binding->zone_name = name;
    if (line.count() == 1) {
        // The size stands with another group of the same zone; each has memory of its own here.
        binding->zone_bytes = 64 * 1024;
        return {};
    }
    auto size = conf::parse_size(line.arg(1));
    if (!size) return Error{"invalid zone size " + quoted(line.arg(1))};
    if (*size < 8 * 4096) return Error{"zone " + quoted(name) + " is too small"};
    binding->zone_bytes = size_t(*size);
    return {};
}

Result<void> set_queue(UpstreamConf&, const Line& line) {
    auto count = core::parse_number(line.arg(0), INT_MAX);
    if (!count || *count == 0) return conf::invalid_value(line, line.arg(0));
    binding->queue_max = int(*count);
    if (line.count() == 1) return {};
    constexpr Slice timeout = "timeout=";
    std::optional<int64_t> ms;
    if (line.arg(1).starts_with(timeout)) {
        ms = conf::parse_time_ms(line.arg(1).substr(timeout.size()));
    }
    if (!ms) return conf::invalid_parameter(line.arg(1));
    binding->queue_timeout_ms = *ms;
    return {};
}

Result<void> set_group_resolver(UpstreamConf&, const Line& line) {
    if (binding->own_resolver) return conf::detail::duplicate();
    CoreConf read;
    auto set = set_resolver(read, line);
    if (set) binding->own_resolver = read.resolver;
    return set;
}

Result<void> set_group_resolver_timeout(UpstreamConf&, const Line& line) {
    auto ms = conf::parse_time_ms(line.arg(0));
    if (!ms) return Error{"invalid value"};
    binding->resolver_timeout_ms = *ms;
    return {};
}

using Limits = ConnectionPool::Limits;
constexpr uint32_t in_upstream = conf::in_upstream;
constexpr conf::Directive directives[] = {
    {"upstream", conf::in_http, conf::takes_block(1), conf::call<add_upstream>},
    {"server", in_upstream, conf::takes_at_least(1), conf::call<add_server_line>},
    {"least_conn", in_upstream, conf::takes(0), conf::call<set_least_conn>},
    {"ip_hash", in_upstream, conf::takes(0), conf::call<set_ip_hash>},
    {"hash", in_upstream, conf::takes(1, 2), conf::call<set_hash>},
    {"random", in_upstream, conf::takes(0, 2), conf::call<set_random>},
    {"least_time", in_upstream, conf::takes(1, 2), conf::call<set_least_time>},
    {"keepalive", in_upstream, conf::takes(1, 2), conf::call<set_keepalive>},
    {"keepalive_requests", in_upstream, conf::takes(1), conf::call<set_keepalive_requests>},
    {"keepalive_timeout", in_upstream, conf::takes(1),
     conf::call<set_keepalive_ms<&Limits::idle_ms>>},
    {"keepalive_time", in_upstream, conf::takes(1),
     conf::call<set_keepalive_ms<&Limits::lifetime_ms>>},
    {"zone", in_upstream, conf::takes(1, 2), conf::call<set_zone>},
    {"queue", in_upstream, conf::takes(1, 2), conf::call<set_queue>},
    {"resolver", in_upstream, conf::takes_at_least(1), conf::call<set_group_resolver>},
    {"resolver_timeout", in_upstream, conf::takes(1), conf::call<set_group_resolver_timeout>},
};

// ---- life ----

UpstreamConf* find_conf(Configuration& configuration) {
    if (!configuration.http_level()) return nullptr;
    void* conf = configuration.binder().own(*configuration.http_level(), upstream.index);
    return static_cast<UpstreamConf*>(conf);
}

Result<void> prepare(Configuration& configuration) {
    UpstreamConf* conf = find_conf(configuration);
    if (!conf || conf->groups.all.empty()) return {};
    auto memory = core::ShmZone::find_or_create("upstreams", updates_bytes, conf);
    if (!memory) return memory.take_error();
    conf->groups.updates = std::move(*memory);
    for (const auto& group : conf->groups.all) {
        auto prepared = group->prepare();
        if (!prepared) {
            return configuration.binder().error_at(group->place, prepared.error().what);
        }
    }
    return {};
}

Result<void> init_worker(Worker& worker) {
    if (UpstreamConf* conf = find_conf(worker.configuration)) {
        for (const auto& group : conf->groups.all) group->start(worker);
    }
    return {};
}

void exit_worker(Worker& worker) {
    if (UpstreamConf* conf = find_conf(worker.configuration)) {
        for (const auto& group : conf->groups.all) group->stop();
    }
}

// ---- variables ----

// One entry for each try: ", " between those of one exchange, " : " between exchanges.
template <class Put>
Value each_state(Request& request, Put&& put) {
    const UpstreamRecord* record = find_upstream_record(request);
    if (!record || !record->first) return Value::none();
    core::Appender text(request.arena, 64);
    for (const UpstreamState* at = record->first;;) {
        put(text, *at);
        at = at->next;
        if (!at) break;
        bool mark = !at->peer.data();
        text.append(mark ? Slice(" : ") : Slice(", "));
        if (mark) at = at->next;
        if (!at) break;
    }
    return text.take();
}

Value upstream_addr(Request& request, Slice, uintptr_t) {
    return each_state(request, [](core::Appender& to, const UpstreamState& state) {
        to.append(state.peer);
    });
}

Value upstream_status(Request& request, Slice, uintptr_t) {
    return each_state(request, [](core::Appender& to, const UpstreamState& state) {
        if (state.status) to.append_number(state.status);
        else to.append('-');
    });
}

enum Time : uintptr_t { response_time, header_time, connect_time };

Value upstream_time(Request& request, Slice, uintptr_t which) {
    return each_state(request, [which](core::Appender& to, const UpstreamState& state) {
        int64_t ms = which == header_time    ? state.header_ms
                     : which == connect_time ? state.connect_ms
                                             : state.response_ms;
        if (ms < 0) return to.append('-');
        to.append_number(ms / 1000);
        char digits[4] = {'.', char('0' + ms / 100 % 10), char('0' + ms / 10 % 10),
                          char('0' + ms % 10)};
        to.append(Slice(digits, 4));
    });
}

enum Bytes : uintptr_t { response_bytes, received_bytes, sent_bytes };

Value upstream_bytes(Request& request, Slice, uintptr_t which) {
    return each_state(request, [which](core::Appender& to, const UpstreamState& state) {
        to.append_number(which == received_bytes ? state.bytes_received
                         : which == sent_bytes   ? state.bytes_sent
                                                 : state.response_bytes);
    });
}

// "content_type" names the field Content-Type; several fields of the name are joined.
Value upstream_field(Request& request, Slice rest, uintptr_t trailers) {
    const UpstreamRecord* record = find_upstream_record(request);
    const HeaderList* fields = !record ? nullptr : trailers ? record->trailers : record->fields;
    if (!fields) return Value::none();
    char* name = request.arena.bytes(rest.size());
    std::replace_copy(rest.begin(), rest.end(), name, '_', '-');
    Slice value = fields->joined({name, rest.size()}, ", ");
    return value.data() ? Value(value) : Value::none();
}

Value upstream_cookie(Request& request, Slice rest, uintptr_t) {
    const UpstreamRecord* record = find_upstream_record(request);
    if (!record || !record->fields) return Value::none();
    for (const Header& field : *record->fields) {
        if (field.id != HeaderId::set_cookie || field.removed) continue;
        Slice text = field.value.substr(0, field.value.find(';'));
        size_t equals = text.find('=');
        if (equals == Slice::npos || !core::iequals(core::trim(text.substr(0, equals)), rest)) {
            continue;
        }
        return core::trim(text.substr(equals + 1));
    }
    return Value::none();
}

Value last_server_name(Request& request, Slice, uintptr_t) {
    const UpstreamRecord* record = find_upstream_record(request);
    if (!record || !record->server_name.data()) return Value::none();
    return record->server_name;
}

// Nothing is cached so far: log formats may name these all the same.
Value nothing_cached(Request&, Slice, uintptr_t) { return Value::none(); }

constexpr Variable variables[] = {
    {"upstream_cache_status", nothing_cached, Variable::volatile_},
    {"upstream_cache_last_modified", nothing_cached, Variable::volatile_},
    {"upstream_cache_etag", nothing_cached, Variable::volatile_},
    {"upstream_addr", upstream_addr, Variable::volatile_},
    {"upstream_status", upstream_status, Variable::volatile_},
    {"upstream_response_time", upstream_time, Variable::volatile_, response_time},
    {"upstream_header_time", upstream_time, Variable::volatile_, header_time},
    {"upstream_connect_time", upstream_time, Variable::volatile_, connect_time},
    {"upstream_response_length", upstream_bytes, Variable::volatile_, response_bytes},
    {"upstream_bytes_received", upstream_bytes, Variable::volatile_, received_bytes},
    {"upstream_bytes_sent", upstream_bytes, Variable::volatile_, sent_bytes},
    {"upstream_last_server_name", last_server_name, Variable::volatile_},
    {"upstream_http_", upstream_field, Variable::prefix | Variable::volatile_, 0},
    {"upstream_trailer_", upstream_field, Variable::prefix | Variable::volatile_, 1},
    {"upstream_cookie_", upstream_cookie, Variable::prefix | Variable::volatile_},
};

}  // namespace

UpstreamGroups& upstream_groups() { return find_conf(Configuration::current())->groups; }

UpstreamGroup& binding_group() { return *binding; }

constinit const Module upstream{
    .name = "upstream",
    .conf = conf_of<UpstreamConf>,
    .directives = directives,
    .variables = variables,
    .prepare = prepare,
    .init_worker = init_worker,
    .exit_worker = exit_worker,
    .has_request_state = true,
    .state_outlives_redirects = true,
};
REGISTER_MODULE(upstream);

}  // namespace server
