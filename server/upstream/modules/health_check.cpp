// health_check in a location with PREFIX_pass to an upstream group, and the match blocks it names.
// The parameters are those of nginx's commercial version.
#include <climits>

#include "conf/values.h"
#include "core/regex.h"
#include "core/text.h"
#include "server/config.h"
#include "server/upstream/group.h"
#include "server/upstream/health.h"
#include "server/upstream/settings.h"
#include "server/worker.h"

namespace server {

extern const Module upstream_health;

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

struct HealthConf {
    std::shared_ptr<HealthRule> rule;                          // of a location; not inherited
    std::vector<HealthMatch> matches;                          // of the http level
    std::vector<std::pair<UpstreamGroup*, std::shared_ptr<HealthRule>>> all;   // likewise
};

std::vector<std::unique_ptr<HealthChecker>>& checkers() {
    static std::vector<std::unique_ptr<HealthChecker>> running;
    return running;
}

HealthConf& http_conf(Configuration& configuration) {
    void* conf =
        configuration.binder().own(*configuration.http_level(), upstream_health.index);
    return *static_cast<HealthConf*>(conf);
}

bool after(Slice argument, Slice name, Slice& value) {
    if (!argument.starts_with(name)) return false;
    value = argument.substr(name.size());
    return true;
}

Result<void> set_ms(int64_t& to, Slice argument, Slice value) {
    auto ms = conf::parse_time_ms(value);
    if (!ms) return conf::invalid_parameter(argument);
    to = *ms;
    return {};
}

Result<void> set_count(int& to, Slice argument, Slice value, int most = INT_MAX) {
    auto number = core::parse_number(value, uint64_t(most));
    if (!number || *number == 0) return conf::invalid_parameter(argument);
    to = int(*number);
    return {};
}

Result<void> read_parameter(HealthRule& rule, Slice argument) {
    Slice value;
    if (after(argument, "interval=", value)) return set_ms(rule.interval_ms, argument, value);
    if (after(argument, "jitter=", value)) return set_ms(rule.jitter_ms, argument, value);
    if (after(argument, "fails=", value)) return set_count(rule.fails, argument, value);
    if (after(argument, "passes=", value)) return set_count(rule.passes, argument, value);
    if (after(argument, "port=", value)) return set_count(rule.port, argument, value, 65535);
    if (after(argument, "uri=", value)) {
        if (!value.starts_with('/')) return conf::invalid_parameter(argument);
        rule.uri = value;
    } else if (after(argument, "match=", value)) {
        rule.match_name = value;
    } else if (argument == "mandatory") {
        rule.mandatory = true;
    } else if (argument == "type=tcp") {
        rule.tcp = true;
    } else if (argument != "type=http") {
        return conf::invalid_parameter(argument);
    }
    return {};
}

Result<void> set_health_check(HealthConf& conf, const Line& line) {
    if (conf.rule) return conf::detail::duplicate();
    conf.rule = std::make_shared<HealthRule>();
    for (size_t i = 0; i < line.count(); ++i) {
        auto read = read_parameter(*conf.rule, line.arg(i));
        if (!read) return read;
    }
    return {};
}

// ---- match ----

Result<void> add_statuses(HealthMatch& match, const Line& entry) {
    size_t first = 0;
    if (entry.count() > 0 && entry.arg(0) == "!") {
        match.other_statuses = true;
        first = 1;
    }
    for (size_t i = first; i < entry.count(); ++i) {
        Slice text = entry.arg(i);
        size_t dash = text.find('-');
        auto from = core::parse_number(text.substr(0, dash), 999);
        auto to = dash == Slice::npos ? from : core::parse_number(text.substr(dash + 1), 999);
        if (!from || !to || *from > *to) return conf::invalid_parameter(text);
        match.statuses.push_back({int(*from), int(*to)});
    }
    return {};
}

Result<std::shared_ptr<const core::Regex>> pattern_of(Slice text) {
    return core::Regex::compile(text, 0u);
}

Result<void> add_field(HealthMatch& match, const Line& entry) {
    using Field = HealthMatch::Field;
    Field field;
    if (entry.count() == 1 || (entry.count() == 2 && entry.arg(0) == "!")) {
        field.test = entry.count() == 1 ? Field::present : Field::absent;
        field.name = entry.arg(entry.count() - 1);
    } else if (entry.count() == 3) {
        Slice sign = entry.arg(1);
        field.name = entry.arg(0);
        field.value = entry.arg(2);
        if (sign == "=") field.test = Field::equal;
        else if (sign == "!=") field.test = Field::not_equal;
        else if (sign == "~") field.test = Field::like;
        else if (sign == "!~") field.test = Field::unlike;
        else return conf::invalid_parameter(sign);
        if (sign.ends_with('~')) {
            auto pattern = pattern_of(field.value);
            if (!pattern) return pattern.take_error();
            field.pattern = std::move(*pattern);
        }
    } else {
        return Error{"invalid number of arguments in \"header\""};
    }
    match.fields.push_back(std::move(field));
    return {};
}

Result<void> add_body(HealthMatch& match, const Line& entry) {
    bool good = entry.count() == 2 && (entry.arg(0) == "~" || entry.arg(0) == "!~");
    if (!good) return Error{"invalid parameters of \"body\""};
    auto pattern = pattern_of(entry.arg(1));
    if (!pattern) return pattern.take_error();
    match.body = std::move(*pattern);
    match.body_unlike = entry.arg(0) == "!~";
    return {};
}

Result<void> add_match(HealthConf& conf, const Line& line) {
    HealthMatch match;
    match.name = line.arg(0);
    auto read = line.binder.each_entry(line, [&](const Line& entry) -> Result<void> {
        if (entry.name() == "status") return add_statuses(match, entry);
        if (entry.name() == "header") return add_field(match, entry);
        if (entry.name() == "body") return add_body(match, entry);
        return Error{"unknown directive \"" + std::string(entry.name()) + "\""};
    });
    conf.matches.push_back(std::move(match));
    return read;
}

constexpr conf::Directive directives[] = {
    {"health_check", conf::in_location, conf::takes(0, 10), conf::call<set_health_check>},
    {"match", conf::in_http, conf::takes_block(1), conf::call<add_match>},
};

// ---- life ----

Result<void> complete(HealthRule& rule, const HealthConf& http, const UpstreamTarget& target) {
    rule.connect_ms = target.settings->connect_timeout->count;
    rule.read_ms = target.settings->read_timeout->count;
    rule.host = target.group->name;
    if (target.tls) rule.tls = target.settings->tls;
    if (rule.match_name.empty()) {
        rule.match.statuses.push_back({200, 399});
        return {};
    }
    for (const HealthMatch& match : http.matches) {
        if (match.name != rule.match_name) continue;
        rule.match = match;
        return {};
    }
    return Error{"unknown match \"" + rule.match_name + "\""};
}

Result<void> prepare(Configuration& configuration) {
    if (!configuration.http_level()) return {};
    HealthConf& http = http_conf(configuration);
    for (const UpstreamTarget& target : upstream_groups().targets) {
        // A block within the location shares its conf: one checker for all.
        auto rule = target.location->conf<HealthConf>(upstream_health).rule;
        if (!rule || target.group->implicit || !rule->host.empty()) continue;
        auto completed = complete(*rule, http, target);
        if (!completed) {
            return configuration.binder().error_at(target.location->place,
                                                   completed.error().what);
        }
        http.all.emplace_back(target.group, rule);
    }
    return {};
}

Result<void> init_worker(Worker& worker) {
    checkers().clear();
    if (!worker.configuration.http_level() || worker.id < 0) return {};
    for (auto& [group, rule] : http_conf(worker.configuration).all) {
        if (group->store.shared() && worker.id > 0) continue;
        checkers().push_back(std::make_unique<HealthChecker>(*group, *rule));
        checkers().back()->start();
    }
    return {};
}

void stop(Worker&) { checkers().clear(); }

}  // namespace

constinit const Module upstream_health{
    .name = "upstream_health",
    .conf = conf_of<HealthConf>,
    .directives = directives,
    .prepare = prepare,
    .init_worker = init_worker,
    .exit_worker = stop,
    .worker_leaves = stop,
};
REGISTER_MODULE(upstream_health);

}  // namespace server
