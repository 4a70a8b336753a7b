// sticky cookie | route | learn: clients stay with the server they were sent to first.
#include "server/upstream/sticky.h"

#include "conf/values.h"
#include "core/shm.h"
#include "core/text.h"
#include "server/config.h"
#include "server/upstream/group.h"

namespace server {
namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

struct StickyConf {};

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

bool after(Slice argument, Slice name, Slice& value) {
    if (!argument.starts_with(name)) return false;
    value = argument.substr(name.size());
    return true;
}

Result<void> compile(ComplexValue& to, Slice text, const Line& line) {
    auto value = ComplexValue::compile(text, line);
    if (!value) return value.take_error();
    to = std::move(*value);
    return {};
}

Result<void> add_variable(std::vector<ComplexValue>& to, Slice text, const Line& line) {
    if (!text.starts_with('$')) return Error{"invalid variable name " + quoted(text)};
    return compile(to.emplace_back(), text, line);
}

Result<void> read_cookie_parameter(StickyRule& rule, Slice argument, const Line& line) {
    Slice value;
    if (after(argument, "expires=", value)) {
        if (value == "max") {
            rule.expires_s = INT64_MAX;
            return {};
        }
        auto seconds = conf::parse_time_s(value);
        if (!seconds) return Error{"invalid \"expires\" value"};
        rule.expires_s = *seconds;
    } else if (after(argument, "domain=", value)) {
        return compile(rule.domain, value, line);
    } else if (after(argument, "samesite=", value)) {
        return compile(rule.same_site, value, line);
    } else if (after(argument, "path=", value)) {
        rule.path = value;
    } else if (argument == "httponly") {
        rule.http_only = true;
    } else if (argument == "secure") {
        rule.secure = true;
    } else {
        return Error{"unknown parameter " + quoted(argument)};
    }
    return {};
}

Result<void> read_cookie(StickyRule& rule, const Line& line) {
    if (line.count() < 2 || line.arg(1).empty()) return Error{"empty cookie name"};
    rule.cookie = line.arg(1);
    auto read = add_variable(rule.lookup, "$cookie_" + rule.cookie, line);
    for (size_t i = 2; read && i < line.count(); ++i) {
        read = read_cookie_parameter(rule, line.arg(i), line);
    }
    return read;
}

Result<void> read_zone(StickyRule& rule, Slice value) {
    size_t colon = value.find(':');
    if (colon == Slice::npos || colon == 0) return Error{"invalid zone name " + quoted(value)};
    rule.zone_name = value.substr(0, colon);
    auto size = conf::parse_size(value.substr(colon + 1));
    if (!size) return Error{"invalid zone size " + quoted(value)};
    if (*size < 8 * 4096) return Error{"zone " + quoted(value) + " is too small"};
    rule.zone_bytes = size_t(*size);
    return {};
}

Result<void> read_learn(StickyRule& rule, const Line& line) {
    for (size_t i = 1; i < line.count(); ++i) {
        Slice argument = line.arg(i), value;
        Result<void> read;
        if (after(argument, "create=", value)) {
            read = add_variable(rule.create, value, line);
        } else if (after(argument, "lookup=", value)) {
            read = add_variable(rule.lookup, value, line);
        } else if (after(argument, "zone=", value)) {
            read = read_zone(rule, value);
        } else if (after(argument, "timeout=", value)) {
            auto ms = conf::parse_time_ms(value);
            if (!ms) return Error{"invalid timeout value"};
            rule.timeout_ms = *ms;
        } else if (argument != "header") {      // sessions are always learned from the head
            return Error{"unknown parameter " + quoted(argument)};
        }
        if (!read) return read;
    }
    if (rule.create.empty()) return Error{"\"create\" parameter is required"};
    if (rule.lookup.empty()) return Error{"\"lookup\" parameter is required"};
    if (rule.zone_bytes == 0) return Error{"\"zone\" parameter is required"};
    auto zone = core::ShmZone::find_or_create(rule.zone_name, rule.zone_bytes, "sticky");
    if (!zone) return zone.take_error();
    rule.zone = std::move(*zone);
    return {};
}

Result<void> set_sticky(StickyConf&, const Line& line) {
    UpstreamGroup& group = binding_group();
    if (group.sticky) return conf::detail::duplicate();
    auto rule = std::make_shared<StickyRule>();
    Slice kind = line.arg(0);
    Result<void> read;
    if (kind == "cookie") {
        read = read_cookie(*rule, line);
    } else if (kind == "route") {
        rule->kind = StickyRule::Kind::route;
        for (size_t i = 1; read && i < line.count(); ++i) {
            read = add_variable(rule->lookup, line.arg(i), line);
        }
    } else if (kind == "learn") {
        rule->kind = StickyRule::Kind::learn;
        read = read_learn(*rule, line);
    } else {
        return Error{"unknown parameter " + quoted(kind)};
    }
    group.sticky = std::move(rule);
    return read;
}

constexpr conf::Directive directives[] = {
    {"sticky", conf::in_upstream, conf::takes_at_least(2), conf::call<set_sticky>},
};

}  // namespace

constinit const Module sticky{
    .name = "upstream_sticky",
    .conf = conf_of<StickyConf>,
    .directives = directives,
};
REGISTER_MODULE(sticky);

}  // namespace server
