// browser: $modern_browser, $ancient_browser and $msie by the User-Agent field.
#include "core/text.h"
#include "server/http/request.h"
#include "server/http/user_agent.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Slice;

// How each browser tells its version: where to look from, the word, and what is skipped of it.
struct Mask {
    Slice name;
    size_t from;
    Slice word;
    size_t skip;
};
constexpr Mask masks[] = {
    {"opera", 0, "Opera", 6},                      // first: it passes itself off as others
    {"msie", 25, "MSIE ", 5},
    {"gecko", 13, "rv:", 3},
    {"safari", 13, "Safari/", 7},
    {"konqueror", 25, "Konqueror/", 10},
};
constexpr size_t mask_count = std::size(masks);

struct Conf {
    int64_t versions[mask_count] = {};             // from which on a browser is modern
    uint32_t listed = 0;                           // bits: those with a version
    bool unlisted_modern = false;
    std::vector<std::string> ancient;
    bool netscape4 = false;
    conf::Setting<std::string> modern_value{"1"};
    conf::Setting<std::string> ancient_value{"1"};
};

extern const Module module_browser;

// "1.10.2" as a number that compares; up to three parts of two digits and more. `rest` begins
// behind it.
int64_t version_number(Slice text, Slice* rest = nullptr) {
    int64_t version = 0, part = 0, scale = 1000000;
    size_t i = 0;
    for (; i < text.size(); ++i) {
        if (text[i] >= '0' && text[i] <= '9') {
            constexpr int64_t most = 1000000;
            part = std::min(part * 10 + (text[i] - '0'), most);
        } else if (text[i] == '.') {
            version += part * scale;
            part = 0;
            scale /= 100;
        } else {
            break;
        }
    }
    if (rest) *rest = text.substr(i);
    return version + part * scale;
}

bool is_netscape4(Slice agent) {
    return agent.size() > 13 && agent.starts_with("Mozilla/") && agent[8] > '0' && agent[8] < '5';
}

bool is_modern(const Request& request, const Conf& conf) {
    const Header* field = request.headers.find(HeaderId::user_agent);
    if (!field) return conf.unlisted_modern;
    Slice agent = field->value;
    for (size_t i = 0; i < mask_count; ++i) {
        const Mask& mask = masks[i];
        if (!(conf.listed >> i & 1) || mask.from >= agent.size()) continue;
        size_t at = agent.find(mask.word, mask.from);
        if (at == Slice::npos || at + mask.skip >= agent.size()) continue;
        return version_number(agent.substr(at + mask.skip)) >= conf.versions[i];
    }
    if (conf.listed && !conf.unlisted_modern) return false;
    if (conf.netscape4 && is_netscape4(agent)) return false;
    for (const std::string& word : conf.ancient) {
        if (agent.find(word) != Slice::npos) return false;
    }
    return conf.unlisted_modern;
}

Value get_modern(Request& request, Slice, uintptr_t) {
    const Conf& conf = request.conf<Conf>(module_browser);
    return is_modern(request, conf) ? Slice(*conf.modern_value) : Slice("", 0);
}

Value get_ancient(Request& request, Slice, uintptr_t) {
    const Conf& conf = request.conf<Conf>(module_browser);
    return is_modern(request, conf) ? Slice("", 0) : Slice(*conf.ancient_value);
}

Value get_msie(Request& request, Slice, uintptr_t) {
    return browser_of(request).msie ? Slice("1") : Slice("", 0);
}

// ---- configuration ----

Result<void> modern_browser(Conf& conf, const Line& line) {
    if (line.count() == 1) {
        if (line.arg(0) != "unlisted") {
            return conf::Error{"invalid number of arguments in \"modern_browser\" directive"};
        }
        conf.unlisted_modern = true;
        return {};
    }
    Slice rest;
    int64_t version = version_number(line.arg(1), &rest);
    if (!rest.empty()) {
        return conf::Error{"invalid browser version \"" + std::string(line.arg(1)) + "\""};
    }
    for (size_t i = 0; i < mask_count; ++i) {
        if (masks[i].name != line.arg(0)) continue;
        conf.listed |= 1u << i;
        conf.versions[i] = version;
        return {};
    }
    return conf::Error{"unknown browser name \"" + std::string(line.arg(0)) + "\""};
}

Result<void> ancient_browser(Conf& conf, const Line& line) {
    for (const std::string& word : line.node.args) {
        if (word == "netscape4") {
            conf.netscape4 = true;
        } else {
            conf.ancient.push_back(word);
        }
    }
    return {};
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    if (!conf.listed && !conf.unlisted_modern) {
        conf.listed = outer->listed;
        std::copy(std::begin(outer->versions), std::end(outer->versions), conf.versions);
        conf.unlisted_modern = outer->unlisted_modern;
    }
    if (conf.ancient.empty() && !conf.netscape4) {
        conf.ancient = outer->ancient;
        conf.netscape4 = outer->netscape4;
    }
    return {};
}

constexpr conf::Directive directives[] = {
    {"modern_browser", conf::in_any_http, conf::takes(1, 2), conf::call<modern_browser>},
    {"ancient_browser", conf::in_any_http, conf::takes_at_least(1), conf::call<ancient_browser>},
    {"modern_browser_value", conf::in_any_http, conf::takes(1), conf::field<&Conf::modern_value>},
    {"ancient_browser_value", conf::in_any_http, conf::takes(1),
     conf::field<&Conf::ancient_value>},
};

constexpr Variable variables[] = {
    {"msie", get_msie, Variable::changeable},
    {"modern_browser", get_modern, Variable::changeable},
    {"ancient_browser", get_ancient, Variable::changeable},
};

constinit const Module module_browser{
    .name = "http_browser",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
};
REGISTER_MODULE(module_browser);

}  // namespace

}  // namespace server
