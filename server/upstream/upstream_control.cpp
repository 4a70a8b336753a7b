// upstreams: the servers of upstream{} blocks, changed at run time through the control socket.
//
//   /v1/upstreams, /v1/upstreams/NAME                        what is known
//   /v1/upstreams/NAME/peers             PUT [peer, …]  POST peer  DELETE: as configured
//   /v1/upstreams/NAME/peers/ADDRESS     PATCH members  DELETE
//
// A value is the whole list. It is changed once for all processes, by the first; the workers find
// out with their next request.
#include <simdjson.h>

#include <algorithm>
#include <unordered_set>

#include "core/json_writer.h"
#include "server/config.h"
#include "server/control/json.h"
#include "server/control/resource.h"
#include "server/control/state.h"
#include "server/upstream/group_changes.h"

namespace server {

namespace {

namespace dom = simdjson::dom;
using Path = std::vector<std::string>;
using Specs = std::vector<PeerSpec>;

constexpr size_t peers_max = 10000;

std::string shown_name(const UpstreamGroup& group) {
    return group.port ? group.name + ":" + std::to_string(group.port) : group.name;
}

UpstreamGroup* find_group(const std::string& name) {
    if (!Configuration::current().http_level()) return nullptr;
    for (const auto& group : upstream_groups().all) {
        if (shown_name(*group) == name) return group.get();
    }
    return upstream_groups().find(name, 0);
}

core::Result<core::Address> parse_address(const std::string& text) {
    auto named = core::parse_host_port(text);
    core::Address address;
    bool good = bool(named);
    if (good && named->is_unix) good = address.set_local_path(named->host);
    else good = good && core::Address::parse_ip(named->host, address);
    if (!good) {
        return core::Error{"\"" + text + "\" is no address (IP:PORT or unix:/path)"};
    }
    if (!named->is_unix) address.set_port(named->port ? named->port : 80);
    return address;
}

// A peer, or changes of one. Its address is only read where it is new.
core::Result<void> read_peer(dom::element from, PeerSpec& spec, bool fresh) {
    std::string address;
    std::string_view plain;
    if (fresh && !from.get(plain)) {
        address = plain;
    } else {
        auto read = read_json(from, {{"address", &address},
                                     {"server", &spec.server},
                                     {"weight", &spec.weight, 1},
                                     {"max_conns", &spec.max_conns},
                                     {"max_fails", &spec.max_fails},
                                     {"fail_timeout", &spec.fail_timeout_s},
                                     {"slow_start", JsonField::Ms{&spec.slow_start_ms}},
                                     {"backup", &spec.backup},
                                     {"down", &spec.down},
                                     {"drain", &spec.drain},
                                     {"route", &spec.route}});
        if (!read) return read;
    }
    if (spec.route.size() > 32) return core::Error{"\"route\" is longer than 32"};
    if (!fresh) {
        return address.empty() ? core::Result<void>()
                               : core::Error{"the address of a peer cannot be changed"};
    }
    if (address.empty()) return core::Error{"\"address\" is missing"};
    auto parsed = parse_address(address);
    if (!parsed) return parsed.take_error();
    spec.address = *parsed;
    if (spec.server.empty()) spec.server = address;
    return {};
}

core::Result<Specs> read_list(dom::element from) {
    dom::array list;
    if (from.get(list) && from["peers"].get(list)) return core::Error{"an array is expected"};
    if (list.size() > peers_max) return core::Error{"no more than 10000 peers"};
    Specs specs;
    for (dom::element each : list) {
        PeerSpec spec;
        auto read = read_peer(each, spec, true);
        if (!read) return read.take_error();
        specs.push_back(std::move(spec));
    }
    return specs;
}

core::Result<Specs> parse_list(const std::string& json) {
    dom::parser parser;
    dom::element root;
    if (parser.parse(json).get(root)) return core::Error{"an array of peers is expected"};
    return read_list(root);
}

core::Result<void> check(const Specs& specs) {
    if (std::none_of(specs.begin(), specs.end(), [](const PeerSpec& s) { return !s.backup; })) {
        return core::Error{"no peer would be left that is not a backup"};
    }
    std::unordered_set<std::string> known;
    for (const PeerSpec& spec : specs) {
        std::string address = spec.address.text();
        if (!known.insert(address + "\n" + spec.server).second) {
            return core::Error{"peer " + address + " stands there twice"};
        }
    }
    return {};
}

void write_peer(core::JsonWriter& to, const PeerSpec& spec) {
    to.begin_object().member("address", spec.address.text()).member("server", spec.server);
    to.member("weight", spec.weight).member("max_conns", spec.max_conns);
    to.member("max_fails", spec.max_fails).member("fail_timeout", spec.fail_timeout_s);
    to.member("slow_start", double(spec.slow_start_ms) / 1000).member("backup", spec.backup);
    to.member("down", spec.down);
    if (spec.drain) to.member("drain", true);
    if (!spec.route.empty()) to.member("route", spec.route);
    to.end_object();
}

std::string write_list(const Specs& specs) {
    core::JsonWriter json;
    json.begin_array();
    for (const PeerSpec& spec : specs) write_peer(json, spec);
    json.end_array();
    return json.take();
}

Specs current_specs(UpstreamGroup& group) {
    PeerTable* table = group.table();
    PeerLock lock(group.store);
    Specs specs = specs_of(*table);
    group.store.drop(table);
    return specs;
}

class Upstreams final : public ControlResource {
  public:
    Upstreams() : ControlResource("upstreams") {}

    ControlOutcome show(const Path& path, const ControlState& state,
                        core::JsonWriter& to) const override;
    ControlOutcome plan(const ControlCall& call, ControlDraft& draft) const override;
    core::Result<StagedPtr> stage(const ControlItem& item, const ControlPlace& place) override;

    std::string object_of(const Path& path) const override {
        const UpstreamGroup* group = find_group(path[0]);
        return encode_segment(group ? shown_name(*group) : path[0]);
    }

  private:
    ControlOutcome edit(const ControlCall& call, UpstreamGroup& group, ControlDraft& draft) const;
};

Upstreams upstreams;

struct StagedPeers : StagedChange {
    std::unique_ptr<UpstreamGroup::Replacement> replacement;
    void commit() override { replacement->commit(); }
};

struct StagedRestore : StagedChange {
    UpstreamGroup* group;
    bool first;
    void commit() override { group->restore(first); }
};

ControlOutcome Upstreams::show(const Path& path, const ControlState& state,
                               core::JsonWriter& to) const {
    if (path.empty()) {
        to.begin_object().key("upstreams").begin_array();
        if (Configuration::current().http_level()) {
            for (const auto& group : upstream_groups().all) {
                to.begin_object().member("name", shown_name(*group));
                to.member("peers", current_specs(*group).size());
                to.member("changed", group->replaced()).end_object();
            }
        }
        to.end_array().end_object();
        return {};
    }
    UpstreamGroup* group = find_group(path[0]);
    if (!group) return not_found("there is no upstream \"" + path[0] + "\"");
    if (path.size() > 2 || (path.size() == 2 && path[1] != "peers")) {
        return not_found("there is nothing at this path");
    }
    to.begin_object().member("name", shown_name(*group)).member("changed", group->replaced());
    to.member("version", state.version_of("upstreams/" + object_of(path)));
    if (group->looks_up()) to.member("looked_up", true);
    to.key("peers").raw(write_list(current_specs(*group))).end_object();
    return {};
}

// One peer comes, changes or goes.
ControlOutcome Upstreams::edit(const ControlCall& call, UpstreamGroup& group,
                               ControlDraft& draft) const {
    std::string key = encode_segment(shown_name(group));
    const auto* planned = draft.planned(key);
    if (planned && !*planned) return conflict("this upstream is set back in the same transaction");
    if (group.looks_up() && !(planned && *planned) && !group.replaced()) {
        return conflict("servers of this upstream are looked up while the server runs: "
                        "PUT replaces all of them");
    }
    Specs specs = current_specs(group);
    if (planned && *planned) {
        if (auto listed = parse_list(**planned)) specs = std::move(*listed);
    }
    dom::parser parser;
    dom::element body;
    if (call.method != "DELETE" && parser.parse(call.body).get(body)) {
        return invalid("a peer is expected");
    }
    if (call.method == "POST") {
        PeerSpec spec;
        auto read = read_peer(body, spec, true);
        if (!read) return invalid(read.error().what);
        for (const PeerSpec& known : specs) {
            if (known.address == spec.address) {
                return conflict("peer " + spec.address.text() + " is there already");
            }
        }
        specs.push_back(std::move(spec));
    } else {
        auto address = parse_address(call.path[2]);
        if (!address) return invalid(address.error().what);
        auto same = [&](const PeerSpec& spec) { return spec.address == *address; };
        if (std::none_of(specs.begin(), specs.end(), same)) {
            return not_found("there is no peer " + address->text());
        }
        if (call.method == "DELETE") {
            std::erase_if(specs, same);
        } else {
            for (PeerSpec& spec : specs) {
                if (!same(spec)) continue;
                auto read = read_peer(body, spec, false);
                if (!read) return invalid(read.error().what);
            }
        }
    }
    auto good = check(specs);
    if (!good) return invalid(good.error().what);
    draft.set(key, write_list(specs));
    return {};
}

ControlOutcome Upstreams::plan(const ControlCall& call, ControlDraft& draft) const {
    const Path& path = call.path;
    if (path.empty()) return wrong_method();
    UpstreamGroup* group = find_group(path[0]);
    if (!group) return not_found("there is no upstream \"" + path[0] + "\"");
    bool peers = path.size() >= 2 && path[1] == "peers";
    if (path.size() > 3 || (path.size() > 1 && !peers)) {
        return not_found("there is nothing at this path");
    }
    bool one = path.size() == 3;
    if (one && (call.method == "PATCH" || call.method == "DELETE")) {
        return edit(call, *group, draft);
    }
    if (one || (!peers && call.method != "DELETE")) return wrong_method();
    if (call.method == "POST") return edit(call, *group, draft);
    std::string key = encode_segment(shown_name(*group));
    if (call.method == "DELETE") {
        if (!draft.find(key) && !group->replaced()) {
            return not_found("the servers of this upstream are those of the configuration");
        }
        draft.set(key, std::nullopt);
        return {};
    }
    if (call.method != "PUT") return wrong_method();
    auto specs = parse_list(call.body);
    if (!specs) return invalid(specs.error().what);
    auto good = check(*specs);
    if (!good) return invalid(good.error().what);
    draft.set(key, write_list(*specs));
    return {};
}

core::Result<StagedPtr> Upstreams::stage(const ControlItem& item, const ControlPlace& place) {
    auto path = split_path(item.key);
    UpstreamGroup* group = path && !path->empty() ? find_group((*path)[0]) : nullptr;
    if (!group) return core::Error{"there is no such upstream"};
    if (!item.value) {
        auto staged = std::make_unique<StagedRestore>();
        staged->group = group;
        staged->first = place.first();
        return StagedPtr(std::move(staged));
    }
    if (!place.first()) return StagedPtr();
    auto specs = parse_list(*item.value);
    if (!specs) return specs.take_error();
    auto good = check(*specs);
    if (!good) return good.take_error();
    auto replacement = group->stage(std::move(*specs));
    if (!replacement) return replacement.take_error();
    auto staged = std::make_unique<StagedPeers>();
    staged->replacement = std::move(*replacement);
    return StagedPtr(std::move(staged));
}

}  // namespace

}  // namespace server
