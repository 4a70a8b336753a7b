// access: allow and deny by the client's address. The first rule that names it decides; rules are
// inherited as a whole.
#include "server/http/cidr.h"
#include "server/http/connection.h"
#include "server/http/core_conf.h"
#include "server/http/request.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;

struct Rule {
    Cidr network;
    bool all = false;
    bool deny = false;
};

struct AccessConf {
    std::vector<Rule> rules;
};

bool applies(const Rule& rule, const AddressBytes& address, bool is_unix) {
    if (rule.all) return true;
    if (rule.network.size == 0) return is_unix;
    return rule.network.contains(address);
}

extern const Module module_access;

Verdict check(Request& request) {
    const AccessConf& conf = request.conf<AccessConf>(module_access);
    const core::Address& peer = request.connection.peer;
    AddressBytes address = AddressBytes::of(peer);
    for (const Rule& rule : conf.rules) {
        if (!applies(rule, address, peer.family() == AF_UNIX)) continue;
        if (!rule.deny) return Verdict::pass();
        if (request.core().satisfy == Satisfy::all) {
            LOG(request.log, error, 0, "access forbidden by rule");
        }
        return Verdict::reject(403);
    }
    return Verdict::decline();
}

Result<void> add_rule(AccessConf& conf, const Line& line) {
    Rule rule;
    rule.deny = line.name() == "deny";
    rule.all = line.arg(0) == "all";
    if (!rule.all && !Cidr::parse(line.arg(0), rule.network)) {
        return conf::invalid_parameter(line.arg(0));
    }
    if (rule.network.low_bits_dropped) {
        line.binder.warn(line.node.place, "low address bits of " + std::string(line.arg(0)) +
                                              " are meaningless");
    }
    conf.rules.push_back(rule);
    return {};
}

Result<void> merge(AccessConf& conf, const AccessConf* outer, conf::Binder&) {
    if (outer && conf.rules.empty()) conf.rules = outer->rules;
    return {};
}

bool has_rules(const void* conf) { return !static_cast<const AccessConf*>(conf)->rules.empty(); }

constexpr uint32_t contexts = conf::in_any_http | conf::in_limit_except;

constexpr conf::Directive directives[] = {
    {"allow", contexts, conf::takes(1), conf::call<add_rule>},
    {"deny", contexts, conf::takes(1), conf::call<add_rule>},
};

constexpr PhaseHandler handlers[] = {{Phase::access, rank::early, check, has_rules}};

const Module module_access{
    .name = "http_access",
    .conf = conf_with_merge<AccessConf, merge>,
    .directives = directives,
    .handlers = handlers,
};
REGISTER_MODULE(module_access);

}  // namespace

}  // namespace server
