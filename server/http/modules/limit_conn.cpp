// limit_conn: how many requests of a key may be at work at a time, counted in shared memory. A
// request counts from here on until it ends.
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/keyed_zone.h"
#include "server/http/murmur.h"
#include "server/http/request.h"
#include "server/metrics.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Slice;

struct Limit {
    std::shared_ptr<KeyedZone> zone;
    int64_t most;
};

struct Conf {
    std::vector<Limit> limits;
    conf::Setting<LimitLevel> level;
    conf::Setting<int> status{503};
    conf::Setting<bool> dry_run{false};
};

extern const Module module_limit_conn;

enum class Status : uint8_t { none, passed, rejected, rejected_dry_run };

struct Place {
    KeyedZone* zone;
    KeyedEntry* entry;
    uint64_t generation;
    Place* next;
};

// Of the client's request: the places it holds.
struct State {
    Status status = Status::none;
    Place* places = nullptr;

    ~State() { leave(); }

    void leave() {
        for (; places; places = places->next) {
            core::ShmLock lock(places->zone->memory());
            if (places->generation != places->zone->generation()) continue;
            if (--places->entry->count == 0) places->zone->remove(*places->entry);
        }
    }
};

constexpr size_t key_bytes_max = 255;

enum class Outcome : uint8_t { fits, too_many, no_memory };

Outcome enter(Request& request, State& state, const Limit& limit, Slice key) {
    KeyedZone& zone = *limit.zone;
    uint32_t hash = murmur_hash2(key);
    core::ShmLock lock(zone.memory());
    KeyedEntry* entry = zone.find(key, hash);
    if (entry && entry->count >= limit.most) return Outcome::too_many;
    if (!entry) entry = zone.add(key, hash);
    if (!entry) return Outcome::no_memory;
    ++entry->count;
    Place place{&zone, entry, zone.generation(), state.places};
    state.places = request.main->arena.make<Place>(place);
    return Outcome::fits;
}

// What is counted of a zone.
enum : size_t { passed_count, rejected_count, rejected_dry_count };
constexpr const char* metric = "resty_limit_conn_requests_total";
constexpr MetricColumn columns[] = {
    {"zone", MetricColumn::label},
    {"passed", MetricColumn::counter, metric, "Requests by what limit_conn did with them.",
     "result=\"passed\""},
    {"rejected", MetricColumn::counter, metric, nullptr, "result=\"rejected\""},
    {"rejected_dry_run", MetricColumn::counter, metric, nullptr, "result=\"rejected_dry_run\""},
};
constinit const MetricTable limit_conns{.name = "limit_conns", .columns = columns};
REGISTER_METRICS(limit_conns);

Verdict refuse(Request& request, const Conf& conf, State& state, const Limit& limit,
               Outcome outcome) {
    limit.zone->count(limit_conns, conf.dry_run ? rejected_dry_count : rejected_count);
    const char* zone = limit.zone->name.c_str();
    if (outcome == Outcome::no_memory) {
        LOG(request.log, alert, 0, "could not allocate node in limit_conn zone \"%s\"", zone);
    } else if (request.log.enabled(conf.level->level)) {
        core::log_write(request.log, conf.level->level, 0, "limiting connections%s by zone \"%s\"",
                        conf.dry_run ? ", dry run," : "", zone);
    }
    state.leave();
    state.status = conf.dry_run ? Status::rejected_dry_run : Status::rejected;
    return conf.dry_run ? Verdict::decline() : Verdict::reject(conf.status);
}

Verdict limit_connections(Request& request) {
    const Conf& conf = request.conf<Conf>(module_limit_conn);
    State* state = request.main->state<State>(module_limit_conn);
    if (state && state->status != Status::none) return Verdict::decline();
    state = request.main->arena.make<State>();
    request.main->set_state(module_limit_conn, state);
    for (const Limit& limit : conf.limits) {
        Slice key = limit.zone->key_of(request, key_bytes_max);
        if (key.empty()) continue;
        state->status = Status::passed;
        Outcome outcome = enter(request, *state, limit, key);
        if (outcome != Outcome::fits) return refuse(request, conf, *state, limit, outcome);
        limit.zone->count(limit_conns, passed_count);
    }
    return Verdict::decline();
}

Value get_status(Request& request, Slice, uintptr_t) {
    static constexpr Slice names[] = {{}, "PASSED", "REJECTED", "REJECTED_DRY_RUN"};
    auto* state = request.main->state<State>(module_limit_conn);
    if (!state || state->status == Status::none) return Value::none();
    return names[int(state->status)];
}

// ---- configuration ----

// Of the configuration being loaded; limits keep those that they use.
KeyedZones& zones() {
    static KeyedZones all;
    return all;
}

Result<void> add_zone(Conf&, const Line& line) { return zones().define(line, false); }

Result<void> add_limit(Conf& conf, const Line& line) {
    auto zone = zones().named(line.arg(0));
    for (const Limit& known : conf.limits) {
        if (known.zone == zone) return conf::Error{"is duplicate"};
    }
    auto most = core::parse_number(line.arg(1));
    if (!most || *most == 0) {
        return conf::Error{"invalid number of connections \"" + std::string(line.arg(1)) + "\""};
    }
    constexpr uint64_t limit_max = 65535;
    if (*most > limit_max) return conf::Error{"connection limit must be less 65536"};
    conf.limits.push_back({std::move(zone), int64_t(*most)});
    return {};
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (outer && conf.limits.empty()) conf.limits = outer->limits;
    return {};
}

constexpr conf::Directive directives[] = {
    {"limit_conn_zone", conf::in_http, conf::takes(2), conf::call<add_zone>},
    {"limit_conn", conf::in_any_http, conf::takes(2), conf::call<add_limit>},
    {"limit_conn_log_level", conf::in_any_http, conf::takes(1), conf::field<&Conf::level>},
    {"limit_conn_status", conf::in_any_http, conf::takes(1),
     conf::field_within<&Conf::status, 400, 599>},
    {"limit_conn_dry_run", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::dry_run>},
};

constexpr Variable variables[] = {{"limit_conn_status", get_status, Variable::volatile_}};

constexpr PhaseHandler handlers[] = {
    {Phase::preaccess, rank::normal, limit_connections,
     [](const void* conf) { return !static_cast<const Conf*>(conf)->limits.empty(); }},
};

const char zone_tag = 0;

constinit const Module module_limit_conn{
    .name = "http_limit_conn",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
    .handlers = handlers,
    .begin = [](Configuration&) { zones() = {}; },
    .prepare = [](Configuration&) { return zones().open(&zone_tag, "limit_conn"); },
    .has_request_state = true,
    .state_outlives_redirects = true,
};
REGISTER_MODULE(module_limit_conn);

}  // namespace

}  // namespace server
