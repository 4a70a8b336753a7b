// The headers module: expires, add_header, add_trailer. The fields are added by a header filter,
// the trailers when the last piece of the body passes.
#include <string>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/clock.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server {

namespace {

enum class Inherit : uint8_t { off, on, merge };
constexpr conf::Choice<Inherit> inherit_words[] = {
    {"off", Inherit::off}, {"on", Inherit::on}, {"merge", Inherit::merge},
};
constexpr const auto& choices(Inherit) { return inherit_words; }

struct Addition {
    std::string name;
    ComplexValue value;
    HeaderId id = HeaderId::other;
    bool always = false;
};
using Additions = std::vector<Addition>;

// When a response expires.
struct Expiry {
    enum Kind : uint8_t { off, epoch, max, from_now, from_modified, daily } kind = off;
    int64_t seconds = 0;
};

struct Conf {
    Additions headers;
    Additions trailers;
    conf::Setting<Inherit> headers_inherit{Inherit::on};
    conf::Setting<Inherit> trailers_inherit{Inherit::on};
    bool expires_set = false;
    Expiry expires;
    ComplexValue expires_value;      // when it holds variables; `expires` is then its start
};

const Module& module();

// ---- configuration ----

// Reads all but the word "modified", which `expiry` comes in with. Null, or what is wrong.
const char* parse_expiry(core::Slice text, Expiry& expiry) {
    if (expiry.kind != Expiry::from_modified) {
        expiry.kind = text == "epoch" ? Expiry::epoch
                      : text == "max" ? Expiry::max
                      : text == "off" ? Expiry::off
                                      : Expiry::from_now;
        if (expiry.kind != Expiry::from_now) return nullptr;
    }
    bool minus = text.starts_with('-');
    if (text.starts_with('@')) {
        if (expiry.kind == Expiry::from_modified) {
            return "daily time cannot be used with \"modified\" parameter";
        }
        expiry.kind = Expiry::daily;
        text.remove_prefix(1);
    } else if (minus || text.starts_with('+')) {
        text.remove_prefix(1);
    }
    auto seconds = conf::parse_time_s(text);
    if (!seconds) return "invalid value";
    if (expiry.kind == Expiry::daily && *seconds > 24 * 60 * 60) {
        return "daily time value must be less than 24 hours";
    }
    expiry.seconds = minus ? -*seconds : *seconds;
    return nullptr;
}

conf::Result<void> set_expires(Conf& conf, const conf::Line& line) {
    if (conf.expires_set) return conf::detail::duplicate();
    conf.expires_set = true;
    if (line.count() == 2) {
        if (line.arg(0) != "modified") return conf::directive_error(line, "invalid value");
        conf.expires.kind = Expiry::from_modified;
    }
    auto value = ComplexValue::compile(line.arg(line.count() - 1), line);
    if (!value) return value.take_error();
    if (!value->is_constant()) {
        conf.expires_value = std::move(*value);
        if (line.count() == 1) conf.expires.kind = Expiry::from_now;
        return {};
    }
    const char* wrong = parse_expiry(line.arg(line.count() - 1), conf.expires);
    if (wrong) return conf::directive_error(line, wrong);
    return {};
}

conf::Result<void> add(Additions& to, const conf::Line& line) {
    Addition addition;
    addition.name = line.arg(0);
    addition.id = header_id(addition.name);
    auto value = ComplexValue::compile(line.arg(1), line);
    if (!value) return value.take_error();
    addition.value = std::move(*value);
    if (line.count() == 3) {
        if (line.arg(2) != "always") return conf::invalid_parameter(line.arg(2));
        addition.always = true;
    }
    to.push_back(std::move(addition));
    return {};
}

conf::Result<void> add_header(Conf& conf, const conf::Line& line) {
    return add(conf.headers, line);
}

conf::Result<void> add_trailer(Conf& conf, const conf::Line& line) {
    return add(conf.trailers, line);
}

void inherit_additions(Additions& own, const Additions& outer, Inherit how) {
    if (how == Inherit::off) return;
    if (own.empty() || how == Inherit::merge) own.insert(own.end(), outer.begin(), outer.end());
}

conf::Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    if (!conf.expires_set) {
        conf.expires_set = outer->expires_set;
        conf.expires = outer->expires;
        conf.expires_value = outer->expires_value;
    }
    inherit_additions(conf.headers, outer->headers, conf.headers_inherit);
    inherit_additions(conf.trailers, outer->trailers, conf.trailers_inherit);
    return {};
}

// ---- responses ----

bool is_safe_status(int status) {
    switch (status) {
    case 200: case 201: case 204: case 206: case 301: case 302: case 303: case 304: case 307:
    case 308:
        return true;
    default:
        return false;
    }
}

core::Slice print_date(Request& request, int64_t when) {
    char* room = request.arena.bytes(29);
    core::format_http_date(time_t(when), room);
    return {room, 29};
}

void set_fields(Request& request, core::Slice expires, core::Slice cache_control) {
    request.response.headers.set(HeaderId::expires, expires);
    request.response.headers.set(HeaderId::cache_control, cache_control);
}

int64_t next_time_of_day(int64_t seconds, int64_t now) {
    time_t at = time_t(now);
    tm local;
    localtime_r(&at, &local);
    local.tm_hour = int(seconds / 3600);
    local.tm_min = int(seconds / 60 % 60);
    local.tm_sec = int(seconds % 60);
    time_t when = mktime(&local);
    if (when != -1 && when > at) return when;
    ++local.tm_mday;
    when = mktime(&local);
    return when == -1 ? now : int64_t(when);
}

void apply_expiry(Request& request, const Expiry& expiry) {
    if (expiry.kind == Expiry::off) return;
    if (expiry.kind == Expiry::epoch) {
        return set_fields(request, "Thu, 01 Jan 1970 00:00:01 GMT", "no-cache");
    }
    if (expiry.kind == Expiry::max) {
        return set_fields(request, "Thu, 31 Dec 2037 23:55:55 GMT", "max-age=315360000");
    }
    int64_t now = core::Clock::seconds();
    int64_t when = now + expiry.seconds;
    if (expiry.kind == Expiry::daily) {
        when = next_time_of_day(expiry.seconds, now);
    } else if (expiry.kind == Expiry::from_modified && request.response.last_modified != -1) {
        when = request.response.last_modified + expiry.seconds;
    }
    core::Slice date = expiry.seconds == 0 && expiry.kind == Expiry::from_now
                           ? request.arena.copy(core::Clock::http_date())
                           : print_date(request, when);
    if (expiry.seconds < 0 || when < now) return set_fields(request, date, "no-cache");
    core::Appender age(request.arena, 32);
    age.append("max-age=");
    age.append_number(when - now);
    set_fields(request, date, age.take());
}

void set_expiry(Request& request, const Conf& conf) {
    if (conf.expires_value.empty()) return apply_expiry(request, conf.expires);
    Expiry expiry = conf.expires;
    if (!parse_expiry(conf.expires_value.evaluate(request), expiry)) apply_expiry(request, expiry);
}

void set_last_modified(Response& response, core::Slice value) {
    response.last_modified = value.empty() ? -1 : core::parse_http_date(value);
    response.headers.remove(HeaderId::last_modified);
    if (response.last_modified == -1 && !value.empty()) {
        response.headers.add("Last-Modified", value, HeaderId::last_modified);
    }
}

void add_fields(Request& request, const Conf& conf, bool safe) {
    Response& response = request.response;
    for (const Addition& addition : conf.headers) {
        if (!safe && !addition.always) continue;
        core::Slice value = addition.value.evaluate(request);
        if (addition.id == HeaderId::last_modified) {
            set_last_modified(response, value);
        } else if (addition.id == HeaderId::etag) {
            response.etag = value;
        } else if (!value.empty()) {
            response.headers.add(addition.name, value, addition.id);
        }
    }
}

Verdict filter_header(Request& request) {
    if (request.parent) return Verdict::pass();
    const Conf& conf = request.conf<Conf>(module());
    bool safe = is_safe_status(request.response.status);
    if (safe && conf.expires_set) set_expiry(request, conf);
    add_fields(request, conf, safe);
    return Verdict::pass();
}

// Trailers go out behind a chunked body only, so the length must not be given. Runs behind the
// range filter, which needs it.
Verdict expect_trailers(Request& request) {
    if (request.parent || request.header_only || request.head.version < 11) return Verdict::pass();
    bool safe = is_safe_status(request.response.status);
    for (const Addition& addition : request.conf<Conf>(module()).trailers) {
        if (!safe && !addition.always) continue;
        request.response.content_length = -1;
        request.want_body(FilterSlot::trailers);
        break;
    }
    return Verdict::pass();
}

Verdict filter_body(Request& request, core::Chain& chain) {
    if (!chain.ends()) return Verdict::pass();
    bool safe = is_safe_status(request.response.status);
    for (const Addition& addition : request.conf<Conf>(module()).trailers) {
        if (!safe && !addition.always) continue;
        core::Slice value = addition.value.evaluate(request);
        if (!value.empty()) request.response.trailers.add(addition.name, value, addition.id);
    }
    return Verdict::pass();
}

constexpr uint32_t contexts = conf::in_any_http | conf::in_location_if;
constexpr conf::Directive directives[] = {
    {"expires", contexts, conf::takes(1, 2), conf::call<set_expires>},
    {"add_header", contexts, conf::takes(2, 3), conf::call<add_header>},
    {"add_trailer", contexts, conf::takes(2, 3), conf::call<add_trailer>},
    {"add_header_inherit", contexts, conf::takes(1), conf::field<&Conf::headers_inherit>},
    {"add_trailer_inherit", contexts, conf::takes(1), conf::field<&Conf::trailers_inherit>},
};

constexpr Filter filters[] = {
    {FilterSlot::headers, filter_header, nullptr,
     [](const void* conf) {
         auto& it = *static_cast<const Conf*>(conf);
         return it.expires_set || !it.headers.empty();
     }},
    {FilterSlot::trailers, expect_trailers, filter_body,
     [](const void* conf) { return !static_cast<const Conf*>(conf)->trailers.empty(); }},
};

constinit const Module headers_filter{
    .name = "headers",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .filters = filters,
};
const Module& module() { return headers_filter; }
REGISTER_MODULE(headers_filter);

}  // namespace

}  // namespace server
