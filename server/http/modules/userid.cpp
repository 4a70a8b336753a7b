// userid: gives clients a cookie by which they are known again. $uid_got is what came, $uid_set
// what was sent, both as NAME=32 hexadecimal digits; a non-empty $uid_reset gives the client a new
// one.
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/base64.h"
#include "core/clock.h"
#include "server/http/connection.h"
#include "server/http/core_variables.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server {

namespace {

using conf::Choice;
using conf::Line;
using conf::Result;
using core::Slice;

enum class Mode : uint8_t { off, log, v1, on };
constexpr auto choices(Mode) {
    return std::to_array<Choice<Mode>>(
        {{"off", Mode::off}, {"log", Mode::log}, {"v1", Mode::v1}, {"on", Mode::on}});
}
enum class CookieFlag : uint8_t {
    off = 1, secure = 2, httponly = 4, samesite_strict = 8, samesite_lax = 16, samesite_none = 32,
};
constexpr auto choices(CookieFlag) {
    using E = CookieFlag;
    return std::to_array<Choice<E>>({{"off", E::off},
                                     {"secure", E::secure},
                                     {"httponly", E::httponly},
                                     {"samesite=strict", E::samesite_strict},
                                     {"samesite=lax", E::samesite_lax},
                                     {"samesite=none", E::samesite_none}});
}

constexpr int64_t expires_max = INT32_MAX;

struct Conf {
    conf::Setting<Mode> mode{Mode::off};
    conf::Setting<int64_t> service{-1};                 // -1: the address that was connected to
    conf::Setting<std::string> name{"uid"};
    conf::Setting<std::string> domain{"none"};
    conf::Setting<std::string> path{"/"};
    conf::Setting<std::string> p3p{"none"};
    conf::Setting<int64_t> expires{0};                  // seconds
    conf::Setting<char> mark{'\0'};
    conf::Setting<conf::Choices<CookieFlag>> flags;
};

extern const Module module_userid;

using Uid = std::array<uint32_t, 4>;
constexpr size_t uid_chars = 22;                        // in base64, without what fills it up

struct State {
    Uid got{}, set{};
    Slice cookie;
    bool reset = false;
};

// ---- numbers ----

struct Sequence {
    uint32_t start;
    uint32_t v1 = 1;
    uint32_t v2 = 0x03030302;
};

// Of this process: distinct from those of its neighbours.
Sequence& sequence() {
    static Sequence one = [] {
        timeval now;
        ::gettimeofday(&now, nullptr);
        return Sequence{uint32_t(now.tv_usec / 20) << 16 | (uint32_t(::getpid()) & 0xffff)};
    }();
    return one;
}

uint32_t local_number(Connection& connection) {
    const core::Address& local = connection.local();
    uint32_t number = 0;
    if (local.family() == AF_INET) number = local.v4.sin_addr.s_addr;
    if (local.family() == AF_INET6) std::memcpy(&number, &local.v6.sin6_addr.s6_addr[12], 4);
    return number;
}

Uid next_uid(Request& request, const Conf& conf) {
    Sequence& next = sequence();
    auto now = uint32_t(core::Clock::seconds());
    if (conf.mode == Mode::v1) {
        uint32_t number = std::exchange(next.v1, next.v1 + 0x100);
        return {conf.service < 0 ? 0 : uint32_t(*conf.service), now, next.start, number};
    }
    uint32_t number = std::exchange(next.v2, next.v2 + 0x100);
    if (next.v2 < 0x03030302) next.v2 = 0x03030302;
    uint32_t service = conf.service < 0 ? local_number(request.connection)
                                        : htonl(uint32_t(*conf.service));
    return {service, htonl(now), htonl(next.start), htonl(number)};
}

// ---- cookies ----

State& read_cookie(Request& request, const Conf& conf) {
    if (auto* state = request.state<State>(module_userid)) return *state;
    State& state = request.need_state<State>(module_userid);
    Slice cookie = cookie_value(request.headers, *conf.name);
    if (!cookie.data()) return state;
    state.cookie = cookie;
    Slice line = request.headers.value(HeaderId::cookie);
    if (cookie.size() < uid_chars) {
        LOG(request.log, error, 0, "client sent too short userid cookie \"%.*s\"",
            int(line.size()), line.data());
        return state;
    }
    // What follows may be a mark, or garbage that old servers gave away.
    char bytes[core::base64_decoded_bytes_max(uid_chars)];
    char* end = core::decode_base64_into(bytes, cookie.substr(0, uid_chars));
    if (!end || size_t(end - bytes) < sizeof(Uid)) {
        LOG(request.log, error, 0, "client sent invalid userid cookie \"%.*s\"", int(line.size()),
            line.data());
        return state;
    }
    std::memcpy(state.got.data(), bytes, sizeof(Uid));
    return state;
}

void log_reset(Request& request, const Conf& conf, const Uid& uid) {
    LOG(request.log, notice, 0, "userid cookie \"%s=%08X%08X%08X%08X\" was reset",
        conf.name->c_str(), uid[0], uid[1], uid[2], uid[3]);
}

// What the response is to set; stays empty when the client's own is good.
void choose_uid(Request& request, State& state, const Conf& conf) {
    if (state.set[3]) return;
    if (state.got[3]) {
        Value reset = variable_by_name(request, "uid_reset");
        if (reset.text.empty() || reset.text == "0") {
            bool marked = state.cookie.size() > uid_chars + 1 &&
                          state.cookie[uid_chars] == conf.mark &&
                          state.cookie[uid_chars + 1] == '=';
            if (*conf.mark && !marked) state.set = state.got;
            return;
        }
        state.reset = true;
        if (reset.text == "log") log_reset(request, conf, state.got);
    }
    state.set = next_uid(request, conf);
}

void append_expires(core::Appender& to, int64_t seconds) {
    if (seconds == 0) return;
    to.append("; expires=");
    if (seconds == expires_max) return to.append("Thu, 31-Dec-37 23:55:55 GMT");
    time_t when = time_t(core::Clock::seconds() + seconds);
    tm parts;
    ::gmtime_r(&when, &parts);
    static constexpr const char* days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                             "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    constexpr int last_short_year = 2037;       // beyond it two digits would mean the past
    int year = parts.tm_year + 1900;
    char text[64];
    int size = std::snprintf(text, sizeof text, "%s, %02d-%s-%0*d %02d:%02d:%02d GMT",
                             days[parts.tm_wday], parts.tm_mday, months[parts.tm_mon],
                             year > last_short_year ? 4 : 2,
                             year > last_short_year ? year : year % 100, parts.tm_hour,
                             parts.tm_min, parts.tm_sec);
    to.append(Slice(text, size_t(size)));
}

void append_attributes(core::Appender& to, const Conf& conf) {
    append_expires(to, *conf.expires);
    if (*conf.domain != "none") {
        to.append("; domain=");
        to.append(*conf.domain);
    }
    to.append("; path=");
    to.append(*conf.path);
    struct Word { CookieFlag flag; Slice text; };
    static constexpr Word words[] = {{CookieFlag::secure, "; secure"},
                                     {CookieFlag::httponly, "; httponly"},
                                     {CookieFlag::samesite_strict, "; samesite=strict"},
                                     {CookieFlag::samesite_lax, "; samesite=lax"},
                                     {CookieFlag::samesite_none, "; samesite=none"}};
    for (const Word& word : words) {
        if (conf.flags->has(word.flag)) to.append(word.text);
    }
}

Slice cookie_text(Request& request, const State& state, const Conf& conf) {
    core::Appender to(request.arena, 128);
    to.append(*conf.name);
    to.append('=');
    char encoded[core::base64_encoded_bytes(sizeof(Uid))];
    core::encode_base64_into(encoded, {reinterpret_cast<const char*>(state.set.data()),
                                       sizeof(Uid)});
    // One of the two bytes that fill it up makes place for the mark.
    if (*conf.mark) encoded[uid_chars] = *conf.mark;
    to.append(Slice(encoded, sizeof encoded));
    append_attributes(to, conf);
    return to.take();
}

Verdict filter_header(Request& request) {
    const Conf& conf = request.conf<Conf>(module_userid);
    if (request.parent || conf.mode < Mode::v1) return Verdict::pass();
    State& state = read_cookie(request, conf);
    choose_uid(request, state, conf);
    if (!state.set[3]) return Verdict::pass();
    HeaderList& headers = request.response.headers;
    headers.add("Set-Cookie", cookie_text(request, state, conf), HeaderId::set_cookie);
    if (*conf.p3p != "none") headers.add("P3P", *conf.p3p);
    return Verdict::pass();
}

// ---- variables ----

Value shown(Request& request, const Conf& conf, const Uid& uid) {
    if (!uid[3]) return Value::none();
    char digits[40];
    int size = std::snprintf(digits, sizeof digits, "=%08X%08X%08X%08X", uid[0], uid[1], uid[2],
                             uid[3]);
    core::Appender to(request.arena, 64);
    to.append(*conf.name);
    to.append(Slice(digits, size_t(size)));
    return to.take();
}

Value get_got(Request& request, Slice, uintptr_t) {
    Request& main = *request.main;
    const Conf& conf = main.conf<Conf>(module_userid);
    if (conf.mode == Mode::off) return Value::none();
    return shown(request, conf, read_cookie(main, conf).got);
}

Value get_set(Request& request, Slice, uintptr_t) {
    Request& main = *request.main;
    const Conf& conf = main.conf<Conf>(module_userid);
    if (conf.mode < Mode::v1) return Value::none();
    State& state = read_cookie(main, conf);
    choose_uid(main, state, conf);
    return shown(request, conf, state.set);
}

Value get_reset(Request&, Slice, uintptr_t) { return Slice("", 0); }

// ---- configuration ----

Result<void> set_expires(Conf& conf, const Line& line) {
    if (conf.expires.is_set) return conf::Error{"is duplicate"};
    if (line.arg(0) == "max" || line.arg(0) == "off") {
        conf.expires.set(line.arg(0) == "max" ? expires_max : 0);
        return {};
    }
    auto seconds = conf::parse_time_s(line.arg(0));
    if (!seconds) return conf::directive_error(line, "invalid value");
    conf.expires.set(*seconds);
    return {};
}

Result<void> set_mark(Conf& conf, const Line& line) {
    if (conf.mark.is_set) return conf::Error{"is duplicate"};
    Slice text = line.arg(0);
    bool letter = text.size() == 1 && (std::isalnum(uint8_t(text[0])) || text[0] == '=');
    if (text != "off" && !letter) {
        return conf::directive_error(
            line, "value must be \"off\" or a single letter, digit or \"=\"");
    }
    conf.mark.set(letter ? text[0] : '\0');
    return {};
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    conf.expires.inherit(outer->expires);
    conf.mark.inherit(outer->mark);
    return {};
}

using namespace conf;
constexpr Directive directives[] = {
    {"userid", in_any_http, takes(1), field<&Conf::mode>},
    {"userid_service", in_any_http, takes(1), field<&Conf::service>},
    {"userid_name", in_any_http, takes(1), field<&Conf::name>},
    {"userid_domain", in_any_http, takes(1), field<&Conf::domain>},
    {"userid_path", in_any_http, takes(1), field<&Conf::path>},
    {"userid_expires", in_any_http, takes(1), call<set_expires>},
    {"userid_p3p", in_any_http, takes(1), field<&Conf::p3p>},
    {"userid_mark", in_any_http, takes(1), call<set_mark>},
    {"userid_flags", in_any_http, takes(1, 3), field<&Conf::flags>},
};

constexpr Variable variables[] = {
    {"uid_got", get_got},
    {"uid_set", get_set},
    {"uid_reset", get_reset, Variable::changeable},
};

constexpr Filter filters[] = {
    {FilterSlot::userid, filter_header, nullptr,
     [](const void* conf) { return static_cast<const Conf*>(conf)->mode >= Mode::v1; }},
};

constinit const Module module_userid{
    .name = "http_userid",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
    .filters = filters,
    .has_request_state = true,
    .state_outlives_redirects = true,
};
REGISTER_MODULE(module_userid);

}  // namespace

}  // namespace server
