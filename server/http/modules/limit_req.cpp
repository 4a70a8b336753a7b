// limit_req: so many requests a second by key, as a leaky bucket in shared memory. What comes too
// early waits, up to `burst` requests of it; what comes on top is refused.
#include <algorithm>

#include "core/clock.h"
#include "core/text.h"
#include "core/timer.h"
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

// Amounts are in thousandths of requests.
struct Limit {
    std::shared_ptr<KeyedZone> zone;
    int64_t burst = 0;
    int64_t delay = 0;             // excess up to this does not wait
};

struct Conf {
    std::vector<Limit> limits;
    conf::Setting<LimitLevel> level;
    conf::Setting<int> status{503};
    conf::Setting<bool> dry_run{false};
};

extern const Module module_limit_req;

enum class Status : uint8_t { none, passed, delayed, rejected, delayed_dry_run, rejected_dry_run };

// Of the client's request: it is counted once, whatever becomes of it.
struct State {
    Status status = Status::none;
    Request* request = nullptr;
    core::Timer delay{[](void* self) { over(self); }, this};

    static void over(void* self) {
        Request& request = *static_cast<State*>(self)->request;
        request.on_abort = nullptr;
        request.resume(Verdict::decline());
    }
};

constexpr int64_t idle_ms = 60000;
constexpr size_t key_bytes_max = 65535;

int64_t excess_at(const KeyedEntry& entry, int64_t rate, int64_t now) {
    int64_t ms = std::max<int64_t>(0, now - entry.last_ms);
    return entry.excess - rate * ms / 1000;
}

// Makes room: entries nobody has come back to for long. `by_force`: the oldest in any case.
void expire(KeyedZone& zone, int64_t now, bool by_force) {
    constexpr int at_once = 2;
    for (int i = by_force ? 0 : 1; i <= at_once; ++i) {
        KeyedEntry* entry = zone.oldest();
        if (!entry || entry->count) return;
        bool idle = now - entry->last_ms >= idle_ms && excess_at(*entry, zone.rate, now) <= 0;
        if (i > 0 && !idle) return;
        zone.remove(*entry);
    }
}

KeyedEntry* add_entry(KeyedZone& zone, Slice key, uint32_t hash, int64_t now) {
    expire(zone, now, false);
    KeyedEntry* entry = zone.add(key, hash);
    if (entry) return entry;
    expire(zone, now, true);
    entry = zone.add(key, hash);
    if (!entry) {
        LOG(core::process_log(), alert, 0, "could not allocate node in limit_req zone \"%s\"",
            zone.name.c_str());
    }
    return entry;
}

// A limit whose entry is held until all of them have agreed.
struct Held {
    KeyedEntry* entry = nullptr;
    uint64_t generation = 0;
};

enum class Outcome : uint8_t { fits, too_many, no_memory };

// Looks one key up. The last limit counts the request at once; the others hold their entry.
Outcome look_up(const Limit& limit, Slice key, bool is_last, int64_t& excess, Held& held) {
    KeyedZone& zone = *limit.zone;
    uint32_t hash = murmur_hash2(key);
    int64_t now = core::Clock::monotonic_ms();
    core::ShmLock lock(zone.memory());
    KeyedEntry* entry = zone.find(key, hash);
    if (!entry) {
        excess = 0;
        entry = add_entry(zone, key, hash, now);
        if (!entry) return Outcome::no_memory;
        entry->last_ms = is_last ? now : 0;
    } else {
        excess = std::max<int64_t>(0, excess_at(*entry, zone.rate, now) + 1000);
        if (excess > limit.burst) return Outcome::too_many;
        if (is_last) {
            entry->excess = excess;
            entry->last_ms = std::max(entry->last_ms, now);
        }
    }
    if (!is_last) {
        ++entry->count;
        held = {entry, zone.generation()};
    }
    return Outcome::fits;
}

// Counts the request in an entry that was held, or just lets go of it.
int64_t settle(const Limit& limit, Held& held, bool count) {
    KeyedZone& zone = *limit.zone;
    core::ShmLock lock(zone.memory());
    if (!held.entry || held.generation != zone.generation()) return 0;
    KeyedEntry& entry = *std::exchange(held.entry, nullptr);
    --entry.count;
    if (!count) return 0;
    int64_t now = core::Clock::monotonic_ms();
    entry.excess = std::max<int64_t>(0, excess_at(entry, zone.rate, now) + 1000);
    entry.last_ms = std::max(entry.last_ms, now);
    return entry.excess;
}

int64_t delay_for(const Limit& limit, int64_t excess) {
    return excess <= limit.delay ? 0 : (excess - limit.delay) * 1000 / limit.zone->rate;
}

void log_limit(Request& request, core::Level level, const char* what, const char* dry,
               const char* comma, int64_t excess, const Limit& limit) {
    if (!request.log.enabled(level)) return;
    core::log_write(request.log, level, 0, "%s%s, excess: %lld.%03lld%s by zone \"%s\"", what, dry,
                    static_cast<long long>(excess / 1000), static_cast<long long>(excess % 1000),
                    comma, limit.zone->name.c_str());
}

// What is counted of a zone.
enum : size_t { passed_count, delayed_count, rejected_count, delayed_dry, rejected_dry };
constexpr const char* metric = "resty_limit_req_requests_total";
constexpr MetricColumn columns[] = {
    {"zone", MetricColumn::label},
    {"passed", MetricColumn::counter, metric, "Requests by what limit_req did with them.",
     "result=\"passed\""},
    {"delayed", MetricColumn::counter, metric, nullptr, "result=\"delayed\""},
    {"rejected", MetricColumn::counter, metric, nullptr, "result=\"rejected\""},
    {"delayed_dry_run", MetricColumn::counter, metric, nullptr, "result=\"delayed_dry_run\""},
    {"rejected_dry_run", MetricColumn::counter, metric, nullptr, "result=\"rejected_dry_run\""},
};
constinit const MetricTable limit_reqs{.name = "limit_reqs", .columns = columns};
REGISTER_METRICS(limit_reqs);

Verdict refuse(const Conf& conf, State& state, const Limit& limit) {
    limit.zone->count(limit_reqs, conf.dry_run ? rejected_dry : rejected_count);
    state.status = conf.dry_run ? Status::rejected_dry_run : Status::rejected;
    return conf.dry_run ? Verdict::decline() : Verdict::reject(conf.status);
}

Verdict wait(Request& request, State& state, int64_t delay_ms) {
    state.status = Status::delayed;
    state.request = &request;
    state.delay.set(delay_ms);
    request.on_abort = [](Request&, void* it) { static_cast<State*>(it)->delay.set(0); };
    request.on_abort_argument = &state;
    return Verdict::suspend();
}

// What one request is up against: its limits that have a key, and how far they were asked.
struct Check {
    static constexpr size_t limits_max = 16;
    const Limit* limits[limits_max];
    Held held[limits_max];
    size_t count = 0;

    void let_go() {
        for (size_t i = 0; i < count; ++i) settle(*limits[i], held[i], false);
    }
};

Verdict delay_or_pass(Request& request, const Conf& conf, State& state, Check& check,
                      int64_t last_excess) {
    const Limit* strictest = check.limits[check.count - 1];
    int64_t excess = last_excess, longest = delay_for(*strictest, last_excess);
    for (size_t i = 0; i + 1 < check.count; ++i) {
        int64_t own = settle(*check.limits[i], check.held[i], true);
        if (delay_for(*check.limits[i], own) <= longest) continue;
        longest = delay_for(*check.limits[i], own);
        excess = own;
        strictest = check.limits[i];
    }
    for (size_t i = 0; i < check.count; ++i) {
        bool delayed = longest > 0 && check.limits[i] == strictest;
        check.limits[i]->zone->count(limit_reqs, !delayed       ? passed_count
                                                 : conf.dry_run ? delayed_dry
                                                                : delayed_count);
    }
    if (longest == 0) {
        state.status = Status::passed;
        return Verdict::decline();
    }
    auto level = conf.level->level == core::Level::info ? core::Level::info
                                                        : core::Level(int(conf.level->level) + 1);
    log_limit(request, level, "delaying request", conf.dry_run ? ", dry run" : "", ",", excess,
              *strictest);
    if (!conf.dry_run) return wait(request, state, longest);
    state.status = Status::delayed_dry_run;
    return Verdict::decline();
}

Verdict limit_requests(Request& request) {
    const Conf& conf = request.conf<Conf>(module_limit_req);
    State& state = request.main->need_state<State>(module_limit_req);
    if (state.status != Status::none) return Verdict::decline();
    Check check;
    Slice keys[Check::limits_max];
    for (const Limit& limit : conf.limits) {
        Slice key = limit.zone->key_of(request, key_bytes_max);
        if (key.empty()) continue;
        keys[check.count] = key;
        check.limits[check.count++] = &limit;
    }
    if (check.count == 0) return Verdict::decline();
    int64_t excess = 0;
    for (size_t i = 0; i < check.count; ++i) {
        const Limit& limit = *check.limits[i];
        Outcome outcome = look_up(limit, keys[i], i + 1 == check.count, excess, check.held[i]);
        if (outcome == Outcome::fits) continue;
        check.let_go();
        if (outcome == Outcome::too_many) {
            log_limit(request, conf.level->level, "limiting requests",
                      conf.dry_run ? ", dry run" : "", "", excess, limit);
        }
        return refuse(conf, state, limit);
    }
    return delay_or_pass(request, conf, state, check, excess);
}

Value get_status(Request& request, Slice, uintptr_t) {
    static constexpr Slice names[] = {{}, "PASSED", "DELAYED", "REJECTED", "DELAYED_DRY_RUN",
                                      "REJECTED_DRY_RUN"};
    auto* state = request.main->state<State>(module_limit_req);
    if (!state || state->status == Status::none) return Value::none();
    return names[int(state->status)];
}

// ---- configuration ----

// Of the configuration being loaded; limits keep those that they use.
KeyedZones& zones() {
    static KeyedZones all;
    return all;
}

Result<void> add_zone(Conf&, const Line& line) { return zones().define(line, true); }

Result<void> read_parameter(Limit& limit, Slice parameter) {
    constexpr int64_t most = INT64_MAX / 1000000;
    struct Amount { Slice prefix, name; int64_t* to; };
    for (Amount amount : {Amount{"burst=", "burst", &limit.burst},
                          Amount{"delay=", "delay", &limit.delay}}) {
        if (!parameter.starts_with(amount.prefix)) continue;
        auto value = core::parse_number(parameter.substr(amount.prefix.size()), most);
        if (!value || *value == 0) {
            return conf::Error{"invalid " + std::string(amount.name) + " value \"" +
                               std::string(parameter) + "\""};
        }
        *amount.to = int64_t(*value) * 1000;
        return {};
    }
    if (parameter == "nodelay") {
        limit.delay = INT64_MAX;
    } else if (parameter.starts_with("zone=")) {
        limit.zone = zones().named(parameter.substr(5));
    } else {
        return conf::invalid_parameter(parameter);
    }
    return {};
}

Result<void> add_limit(Conf& conf, const Line& line) {
    Limit limit{};
    for (const std::string& parameter : line.node.args) {
        auto read = read_parameter(limit, parameter);
        if (!read) return read;
    }
    if (!limit.zone) return conf::Error{"\"limit_req\" must have \"zone\" parameter"};
    for (const Limit& known : conf.limits) {
        if (known.zone == limit.zone) return conf::Error{"is duplicate"};
    }
    if (conf.limits.size() == Check::limits_max) {
        return conf::Error{"no more than 16 \"limit_req\" are possible here"};
    }
    conf.limits.push_back(limit);
    return {};
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (outer && conf.limits.empty()) conf.limits = outer->limits;
    return {};
}

constexpr conf::Directive directives[] = {
    {"limit_req_zone", conf::in_http, conf::takes(3), conf::call<add_zone>},
    {"limit_req", conf::in_any_http, conf::takes(1, 3), conf::call<add_limit>},
    {"limit_req_log_level", conf::in_any_http, conf::takes(1), conf::field<&Conf::level>},
    {"limit_req_status", conf::in_any_http, conf::takes(1),
     conf::field_within<&Conf::status, 400, 599>},
    {"limit_req_dry_run", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::dry_run>},
};

constexpr Variable variables[] = {{"limit_req_status", get_status, Variable::volatile_}};

constexpr PhaseHandler handlers[] = {
    {Phase::preaccess, rank::early, limit_requests,
     [](const void* conf) { return !static_cast<const Conf*>(conf)->limits.empty(); }},
};

const char zone_tag = 0;

constinit const Module module_limit_req{
    .name = "http_limit_req",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
    .handlers = handlers,
    .begin = [](Configuration&) { zones() = {}; },
    .prepare = [](Configuration&) { return zones().open(&zone_tag, "limit_req"); },
    .has_request_state = true,
    .state_outlives_redirects = true,
};
REGISTER_MODULE(module_limit_req);

}  // namespace

}  // namespace server
