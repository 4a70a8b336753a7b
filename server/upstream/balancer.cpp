// What scripts see of groups: names, servers, peers; and their changes.
#include "server/upstream/balancer.h"

#include "core/text.h"
#include "core/tls.h"
#include "server/http/request.h"
#include "server/upstream/group.h"
#include "server/upstream/session.h"

namespace server {

namespace {

// "name", or "name:port" of one made by proxy_pass.
std::string shown_name(const UpstreamGroup& group) {
    return group.port ? group.name + ":" + std::to_string(group.port) : group.name;
}

UpstreamGroup* find_group(core::Slice name) {
    for (const auto& group : upstream_groups().all) {
        if (shown_name(*group) == name) return group.get();
    }
    return upstream_groups().find(name, 0);
}

}  // namespace

void choice_made(Request& request, Verdict verdict) {
    UpstreamRecord* record = find_upstream_record(request);
    if (record && record->session) record->session->choice_made(verdict);
}

BalancerState balancer_state(Request& request) {
    UpstreamRecord* record = find_upstream_record(request);
    if (!record || !record->session) return {};
    return record->session->balancer_state();
}

core::Slice upstream_name(Request& request) {
    UpstreamRecord* record = find_upstream_record(request);
    return record ? record->group : core::Slice{};
}

ssl_st* upstream_tls(Request& request, const char*& why) {
    UpstreamRecord* record = find_upstream_record(request);
    const core::Stream* stream = record && record->session ? record->session->stream() : nullptr;
    const core::TlsSession* tls = stream ? stream->tls() : nullptr;
    why = !record   ? "bad upstream"
          : !stream ? "bad peer connection"
          : !tls    ? "not ssl connection"
                    : nullptr;
    return tls ? tls->native() : nullptr;
}

conf::Result<void> set_binding_chooser(std::shared_ptr<PeerChooser> chooser,
                                       const conf::Line& line) {
    UpstreamGroup& group = binding_group();
    if (group.chooser) return conf::detail::duplicate();
    if (group.method_set || group.keepalive_set) {
        line.binder.warn(line.node.place, "load balancing method redefined");
    }
    group.chooser = std::move(chooser);
    return {};
}

conf::Result<void> set_binding_pool(uint32_t connections) {
    UpstreamGroup& group = binding_group();
    if (group.script_pool) return conf::detail::duplicate();
    group.script_pool = connections;
    return {};
}

std::vector<std::string> upstream_names() {
    std::vector<std::string> names;
    for (const auto& group : upstream_groups().all) names.push_back(shown_name(*group));
    return names;
}

bool upstream_servers(core::Slice upstream, std::vector<ServerView>& to) {
    UpstreamGroup* group = find_group(upstream);
    if (!group) return false;
    for (const ServerLine& line : group->servers) {
        ServerView view;
        view.name = line.spec.server;
        for (const core::Address& address : line.addresses) {
            view.addresses.push_back(address.text());
        }
        view.weight = line.spec.weight;
        view.max_fails = line.spec.max_fails;
        view.fail_timeout_s = line.spec.fail_timeout_s;
        view.backup = line.spec.backup;
        view.down = line.spec.down;
        to.push_back(std::move(view));
    }
    return true;
}

bool upstream_peers(core::Slice upstream, bool backup, std::vector<PeerView>& to) {
    UpstreamGroup* group = find_group(upstream);
    if (!group) return false;
    PeerTable* table = group->table();
    PeerLock lock(group->store);
    const PeerList& list = backup ? table->backup : table->primary;
    for (uint32_t i = 0; i < list.count; ++i) {
        const Peer& peer = *list.items[i];
        PeerView view{std::string(peer.name), std::string(peer.server), peer.weight,
                      peer.current_weight, peer.effective_weight, peer.conns, peer.fails,
                      peer.max_fails, peer.max_conns, peer.fail_timeout_s, peer.accessed_s,
                      peer.checked_s, peer.down != 0};
        to.push_back(std::move(view));
    }
    group->store.drop(table);
    return true;
}

const char* set_upstream_peer_down(core::Slice upstream, bool backup, int index, bool down) {
    UpstreamGroup* group = find_group(upstream);
    if (!group) return "upstream not found";
    if (index < 0 || !group->set_down(backup, uint32_t(index), down)) return "bad peer id";
    return nullptr;
}

std::string replace_upstream_peers(core::Slice upstream, const std::vector<NewPeer>& peers) {
    UpstreamGroup* group = find_group(upstream);
    if (!group) return "upstream not found";
    std::vector<PeerSpec> specs;
    for (const NewPeer& peer : peers) {
        PeerSpec spec;
        spec.server = peer.address;
        auto named = core::parse_host_port(peer.address);
        bool good = bool(named);
        if (good && named->is_unix) good = spec.address.set_local_path(named->host);
        else good = good && core::Address::parse_ip(named->host, spec.address);
        if (!good || peer.weight < 1) return "bad peer \"" + peer.address + "\"";
        if (!named->is_unix) spec.address.set_port(named->port ? named->port : 80);
        spec.weight = peer.weight;
        spec.max_conns = peer.max_conns;
        spec.max_fails = peer.max_fails;
        spec.fail_timeout_s = peer.fail_timeout_s;
        spec.slow_start_ms = peer.slow_start_ms;
        spec.backup = peer.backup;
        spec.down = peer.down;
        specs.push_back(std::move(spec));
    }
    if (specs.empty()) return "no peers";
    auto replaced = group->replace(std::move(specs));
    return replaced ? std::string() : replaced.error().what;
}

}  // namespace server
