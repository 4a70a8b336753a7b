// referer: valid_referers and $invalid_referer ("1" for a request whose Referer is none of those).
#include <algorithm>

#include "core/regex.h"
#include "core/text.h"
#include "server/http/host_map.h"
#include "server/http/request.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;
using RegexPtr = std::shared_ptr<const core::Regex>;

struct RefererConf {
    bool given = false;
    bool none = false;
    bool blocked = false;
    bool server_names = false;
    const VirtualServer* server = nullptr;       // whose names are meant
    HostMap<std::string> hosts;                  // to the URI prefix, empty for any
    std::vector<RegexPtr> host_patterns;         // server names
    std::vector<RegexPtr> patterns;              // of host and URI
    conf::Setting<int64_t> hash_max_size{2048};  // accepted, without effect
    conf::Setting<int64_t> hash_bucket_size{64};

    bool empty() const { return hosts.empty() && host_patterns.empty() && patterns.empty(); }
};

extern const Module module_referer;

bool any_matches(const std::vector<RegexPtr>& patterns, Slice text) {
    return std::any_of(patterns.begin(), patterns.end(), [&](const RegexPtr& pattern) {
        uint32_t offsets[2];
        return pattern->match(text, 0, offsets, 1) >= 0;
    });
}

// `rest`: the referer behind its scheme.
bool is_valid_place(const RefererConf& conf, Slice rest) {
    constexpr size_t host_bytes_max = 256;
    char room[host_bytes_max];
    size_t host_end = std::min(rest.find_first_of("/:"), rest.size());
    if (host_end > host_bytes_max) return false;
    core::lower_into(room, rest.substr(0, host_end));
    Slice host(room, host_end);
    if (const std::string* prefix = conf.hosts.find(host)) {
        size_t slash = std::min(rest.find('/', host_end), rest.size());
        return rest.substr(slash).starts_with(*prefix);
    }
    return any_matches(conf.host_patterns, host) || any_matches(conf.patterns, rest);
}

bool is_valid(Request& request) {
    const RefererConf& conf = request.conf<RefererConf>(module_referer);
    if (conf.empty()) return true;
    const Header* field = request.headers.find(HeaderId::referer);
    if (!field) return conf.none;
    for (Slice scheme : {"http://", "https://"}) {
        constexpr size_t shortest = 11;          // "http://i.ru"
        if (field->value.size() >= shortest && core::istarts_with(field->value, scheme)) {
            return is_valid_place(conf, field->value.substr(scheme.size()));
        }
    }
    return conf.blocked;
}

Value get_invalid(Request& request, Slice, uintptr_t) {
    return is_valid(request) ? Slice("", 0) : Slice("1");
}

Result<void> add_pattern(RefererConf& conf, Slice written) {
    if (written.size() == 1) {
        return Error{"empty regex in \"" + std::string(written) + "\""};
    }
    auto regex = core::Regex::compile(written.substr(1), core::Regex::caseless);
    if (!regex) return regex.take_error();
    conf.patterns.push_back(std::move(*regex));
    return {};
}

Result<void> add_host(RefererConf& conf, Slice written) {
    size_t slash = written.find('/');
    Slice host = written.substr(0, slash);
    std::string prefix(slash == Slice::npos ? Slice{} : written.substr(slash));
    switch (conf.hosts.add(core::to_lower(host), prefix, true)) {
    case HostMap<std::string>::Added::yes: return {};
    case HostMap<std::string>::Added::known:
        return Error{"conflicting parameter \"" + std::string(host) + "\""};
    default: return Error{"invalid hostname or wildcard \"" + std::string(host) + "\""};
    }
}

Result<void> add_referers(RefererConf& conf, const Line& line) {
    conf.given = true;
    conf.server = Configuration::current().binding_server;
    for (const std::string& written : line.node.args) {
        Result<void> added;
        if (written.empty()) {
            added = Error{"invalid referer \"\""};
        } else if (written == "none") {
            conf.none = true;
        } else if (written == "blocked") {
            conf.blocked = true;
        } else if (written == "server_names") {
            conf.server_names = true;
        } else {
            added = written[0] == '~' ? add_pattern(conf, written) : add_host(conf, written);
        }
        if (!added) return added;
    }
    return {};
}

// The server's names are all known only now.
Result<void> merge(RefererConf& conf, const RefererConf* outer, conf::Binder&) {
    if (!conf.given && outer) {
        auto max_size = conf.hash_max_size;
        conf = *outer;
        conf.hash_max_size.inherit(max_size);
        return {};
    }
    if (!conf.server_names || !conf.server) return {};
    conf.server_names = false;
    for (const ServerName& name : conf.server->names) {
        if (name.pattern) {
            conf.host_patterns.push_back(name.pattern);
        } else if (!name.text.empty()) {
            conf.hosts.add(name.text, std::string(), true);
        }
    }
    return {};
}

constexpr uint32_t contexts = conf::in_server | conf::in_location;

constexpr conf::Directive directives[] = {
    {"valid_referers", contexts, conf::takes_at_least(1), conf::call<add_referers>},
    {"referer_hash_max_size", contexts, conf::takes(1),
     conf::field<&RefererConf::hash_max_size>},
    {"referer_hash_bucket_size", contexts, conf::takes(1),
     conf::field<&RefererConf::hash_bucket_size>},
};

constexpr Variable variables[] = {
    {"invalid_referer", get_invalid, uint8_t(Variable::changeable | Variable::volatile_)},
};

const Module module_referer{
    .name = "http_referer",
    .conf = conf_with_merge<RefererConf, merge>,
    .directives = directives,
    .variables = variables,
};
REGISTER_MODULE(module_referer);

}  // namespace

}  // namespace server
