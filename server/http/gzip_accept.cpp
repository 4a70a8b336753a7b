// Deciding about gzip. Called once a response by the modules that compress or decompress.
#include "server/http/gzip_accept.h"

#include <memory>
#include <vector>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/clock.h"
#include "core/regex.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/http/user_agent.h"

namespace server {

namespace {

enum Proxied : uint32_t {
    proxied_off = 1, proxied_expired = 2, proxied_no_cache = 4, proxied_no_store = 8,
    proxied_private = 16, proxied_no_last_modified = 32, proxied_no_etag = 64, proxied_auth = 128,
    proxied_any = 256,
};

enum class Version : uint8_t { http_1_0 = 10, http_1_1 = 11 };
constexpr conf::Choice<Version> versions[] = {
    {"1.0", Version::http_1_0}, {"1.1", Version::http_1_1},
};
constexpr const auto& choices(Version) { return versions; }

struct Conf {
    conf::Setting<bool> vary{false};
    conf::Setting<Version> version{Version::http_1_1};
    uint32_t proxied = 0;
    bool disable_set = false;
    bool disable_msie6 = false;
    std::vector<std::shared_ptr<const core::Regex>> disable;
};

const Module& module();

conf::Result<void> set_proxied(Conf& conf, const conf::Line& line) {
    constexpr std::pair<core::Slice, uint32_t> words[] = {
        {"off", proxied_off},          {"expired", proxied_expired},
        {"no-cache", proxied_no_cache}, {"no-store", proxied_no_store},
        {"private", proxied_private},  {"no_last_modified", proxied_no_last_modified},
        {"no_etag", proxied_no_etag},  {"auth", proxied_auth},
        {"any", proxied_any},
    };
    for (size_t i = 0; i < line.count(); ++i) {
        uint32_t bit = 0;
        for (auto& [word, value] : words) {
            if (line.arg(i) == word) bit = value;
        }
        if (!bit) {
            return conf::Error{"invalid value \"" + std::string(line.arg(i)) + "\""};
        }
        if (conf.proxied & bit) {
            line.binder.warn(line.node.place,
                             "duplicate value \"" + std::string(line.arg(i)) + "\"");
        }
        conf.proxied |= bit;
    }
    return {};
}

conf::Result<void> add_disable(Conf& conf, const conf::Line& line) {
    conf.disable_set = true;
    for (size_t i = 0; i < line.count(); ++i) {
        if (line.arg(i) == "msie6") {
            conf.disable_msie6 = true;
            continue;
        }
        if (line.arg(i) == "degradation") continue;
        auto regex = core::Regex::compile(line.arg(i), core::Regex::caseless);
        if (!regex) return regex.take_error();
        conf.disable.push_back(std::move(*regex));
    }
    return {};
}

conf::Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!conf.proxied) conf.proxied = outer ? outer->proxied : uint32_t(proxied_off);
    if (!conf.disable_set && outer) {
        conf.disable_set = outer->disable_set;
        conf.disable_msie6 = outer->disable_msie6;
        conf.disable = outer->disable;
    }
    return {};
}

bool is_disabled(const Request& request, const Conf& conf) {
    const Header* agent = request.headers.find(HeaderId::user_agent);
    if (!agent) return false;
    if (conf.disable_msie6 && browser_of(agent->value).msie6) return true;
    for (auto& regex : conf.disable) {
        uint32_t offsets[2];
        if (regex->match(agent->value, 0, offsets, 1) >= 0) return true;
    }
    return false;
}

bool cache_control_has(const Request& request, core::Slice directive) {
    for (const Header& field : request.response.headers) {
        if (field.removed || field.id != HeaderId::cache_control) continue;
        if (core::ifind(field.value, directive) != core::Slice::npos) return true;
    }
    return false;
}

// The request came through a proxy (Via): may the response be compressed for it?
bool allowed_for_proxies(const Request& request, uint32_t proxied) {
    const Response& response = request.response;
    if (proxied & proxied_off) return false;
    if (proxied & proxied_any) return true;
    if ((proxied & proxied_auth) && request.headers.find(HeaderId::authorization)) return true;
    if (const Header* expires = response.headers.find(HeaderId::expires)) {
        if (!(proxied & proxied_expired)) return false;
        int64_t when = core::parse_http_date(expires->value);
        int64_t date = core::Clock::seconds();
        if (const Header* own = response.headers.find(HeaderId::date)) {
            date = core::parse_http_date(own->value);
        }
        return when != -1 && date != -1 && when < date;
    }
    if (response.headers.find(HeaderId::cache_control)) {
        return ((proxied & proxied_no_cache) && cache_control_has(request, "no-cache")) ||
               ((proxied & proxied_no_store) && cache_control_has(request, "no-store")) ||
               ((proxied & proxied_private) && cache_control_has(request, "private"));
    }
    if ((proxied & proxied_no_last_modified) && response.last_modified != -1) return false;
    return !((proxied & proxied_no_etag) && !response.etag.empty());
}

// A weight behind ";q=" is above nought. Malformed ones count as nought.
bool is_positive_weight(core::Slice text) {
    if (text.empty() || (text[0] != '0' && text[0] != '1')) return false;
    int hundredths = (text[0] - '0') * 100;
    text.remove_prefix(1);
    if (text.empty() || text[0] == ',' || text[0] == ' ') return hundredths > 0;
    if (text[0] != '.') return false;
    int digits = 0;
    for (char c : text.substr(1)) {
        if (c == ',' || c == ' ') break;
        if (!core::is_digit(c)) return false;
        hundredths += c - '0';
        ++digits;
    }
    return hundredths > 0 && hundredths <= 100 && digits <= 3;
}

constexpr conf::Directive directives[] = {
    {"gzip_vary", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::vary>},
    {"gzip_http_version", conf::in_any_http, conf::takes(1), conf::field<&Conf::version>},
    {"gzip_proxied", conf::in_any_http, conf::takes_at_least(1), conf::call<set_proxied>},
    {"gzip_disable", conf::in_any_http, conf::takes_at_least(1), conf::call<add_disable>},
};

constinit const Module gzip_accept{
    .name = "gzip_accept",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
};
const Module& module() { return gzip_accept; }
REGISTER_MODULE(gzip_accept);

}  // namespace

bool encoding_allows_gzip(core::Slice value) {
    size_t at = 0;
    for (;;) {
        size_t found = core::ifind(value.substr(at), "gzip");
        if (found == core::Slice::npos) return false;
        at += found;
        if (at == 0 || value[at - 1] == ',' || value[at - 1] == ' ') break;
        at += 4;
    }
    auto skip_spaces = [&] {
        while (at < value.size() && value[at] == ' ') ++at;
    };
    at += 4;
    skip_spaces();
    if (at == value.size() || value[at] == ',') return true;
    if (value[at++] != ';') return false;
    skip_spaces();
    if (at == value.size()) return true;
    if (core::lower(value[at++]) != 'q') return false;
    if (at + 2 > value.size() || value[at] != '=') return false;
    return is_positive_weight(value.substr(at + 1));
}

bool accepts_gzip(const Request& request) {
    if (request.parent) return false;
    const Header* encoding = request.headers.find(HeaderId::accept_encoding);
    if (!encoding || !encoding_allows_gzip(encoding->value)) return false;
    const Conf& conf = request.conf<Conf>(module());
    if (request.head.version < int(conf.version.value)) return false;
    if (request.headers.find(HeaderId::via) && !allowed_for_proxies(request, conf.proxied)) {
        return false;
    }
    return !conf.disable_set || !is_disabled(request, conf);
}

bool gzip_vary_on(const Request& request) { return request.conf<Conf>(module()).vary; }

void note_gzip_vary(Request& request) {
    if (!gzip_vary_on(request)) return;
    constexpr core::Slice value = "Accept-Encoding";
    for (const Header& field : request.response.headers) {
        if (!field.removed && field.id == HeaderId::vary && field.value.data() == value.data()) {
            return;
        }
    }
    request.response.headers.add("Vary", value, HeaderId::vary);
}

void weaken_etag(Request& request) {
    core::Slice& etag = request.response.etag;
    if (etag.empty() || etag.starts_with("W/")) return;
    if (etag[0] != '"') {
        etag = {};
        return;
    }
    char* to = request.arena.bytes(etag.size() + 2);
    to[0] = 'W';
    to[1] = '/';
    std::copy(etag.begin(), etag.end(), to + 2);
    etag = {to, etag.size() + 2};
}

}  // namespace server
