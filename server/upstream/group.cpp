// A group's tables: made from its server lines, replaced when names resolve to something else or a
// script says so.
#include "server/upstream/group.h"

#include <netdb.h>

#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "core/log.h"
#include "core/resolver.h"
#include "core/shm.h"
#include "core/text.h"
#include "server/config.h"
#include "server/config_stamp.h"
#include "server/http/core_conf.h"
#include "server/metrics.h"
#include "server/upstream/group_metrics.h"
#include "server/upstream/sticky.h"
#include "server/worker.h"

namespace server {

namespace {

constexpr int64_t retry_ms = 5000;         // names that did not resolve at start
constexpr int64_t least_again_ms = 1000;   // however short a TTL is

bool same_addresses(const std::vector<core::Address>& a, const std::vector<core::Address>& b) {
    return a.size() == b.size() && std::is_permutation(a.begin(), a.end(), b.begin());
}

}  // namespace

// A name that is looked up while the server runs: `resolve`, or one that did not resolve at start.
struct UpstreamGroup::Lookup {
    UpstreamGroup& group;
    ServerLine& line;
    core::Resolver* resolver = nullptr;
    core::Timer timer;
    std::unique_ptr<core::ResolveQuery> query;

    Lookup(UpstreamGroup& of, ServerLine& what)
        : group(of), line(what), timer([](void* it) { static_cast<Lookup*>(it)->ask(); }, this) {}

    void ask() {
        std::string name = line.host;
        auto kind = core::ResolveKind::addresses;
        if (!line.service.empty()) {
            kind = core::ResolveKind::services;
            bool plain = line.service.find('.') == std::string::npos;
            name = (plain ? "_" + line.service + "._tcp." : line.service + ".") + line.host;
        }
        query = resolver->resolve(
            name, [this](const core::Resolution& found) { answered(found); }, kind,
            group.resolver_timeout_ms);
    }

    void answered(const core::Resolution& found) {
        int64_t again_ms = retry_ms;
        if (found.ok()) {
            again_ms = std::max(found.expires_ms - core::Clock::monotonic_ms(), least_again_ms);
            take(found);
        } else {
            LOG(core::process_log(), error, 0, "%s", found.error_text().c_str());
        }
        if (line.resolve || !found.ok()) timer.set(again_ms);
    }

    void take(const core::Resolution& found) {
        if (line.service.empty()) {
            std::vector<core::Address> addresses = found.addresses;
            for (core::Address& address : addresses) address.set_port(line.port);
            if (same_addresses(addresses, line.addresses)) return;
            line.addresses = std::move(addresses);
        } else {
            take_services(found);
        }
        group.rebuild();
    }

    // The best priority serves, the others stand by; weights scale to what nginx makes of them.
    void take_services(const core::Resolution& found) {
        line.found.clear();
        uint16_t best = UINT16_MAX;
        for (const auto& service : found.services) best = std::min(best, service.priority);
        for (const auto& service : found.services) {
            for (const core::Address& address : service.addresses) {
                PeerSpec spec = line.spec;
                spec.address = address;
                if (service.weight) spec.weight = service.weight;
                spec.backup = spec.backup || service.priority != best;
                line.found.push_back(std::move(spec));
            }
        }
    }
};

UpstreamGroup::UpstreamGroup(std::string called, const conf::Place& at)
    : name(std::move(called)), place(at) {}

UpstreamGroup::~UpstreamGroup() {
    stop();
    if (local_) store.drop(local_);
}

std::vector<core::Address> look_up_host(const std::string& host, int port) {
    std::vector<core::Address> found;
    core::Address literal;
    if (core::Address::parse_ip(host, literal)) {
        literal.set_port(port);
        return {literal};
    }
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    if (getaddrinfo(host.c_str(), nullptr, &hints, &list) != 0) return found;
    for (int family : {AF_INET, AF_INET6}) {
        for (addrinfo* at = list; at; at = at->ai_next) {
            if (at->ai_family != family) continue;
            core::Address address;
            std::memcpy(&address.any, at->ai_addr, at->ai_addrlen);
            address.size = at->ai_addrlen;
            address.set_port(port);
            if (std::find(found.begin(), found.end(), address) == found.end()) {
                found.push_back(address);
            }
        }
    }
    freeaddrinfo(list);
    std::vector<std::string> texts;
    for (const core::Address& address : found) texts.push_back(address.text());
    note_looked_up(host, texts);
    return found;
}

core::Result<void> UpstreamGroup::look_up_now(ServerLine& line) {
    if (line.host.empty() || line.resolve) return {};
    line.addresses = look_up_host(line.host, line.port);
    if (!line.addresses.empty()) return {};
    // It may be known later: the server starts, and asks again.
    Configuration::current().binder().warn(
        place, "host not found in upstream \"" + line.spec.server + "\"");
    return {};
}

std::vector<PeerSpec> UpstreamGroup::all_specs() const {
    std::vector<PeerSpec> specs;
    for (const ServerLine& line : servers) {
        for (const core::Address& address : line.addresses) {
            PeerSpec spec = line.spec;
            spec.address = address;
            specs.push_back(std::move(spec));
        }
        specs.insert(specs.end(), line.found.begin(), line.found.end());
    }
    identify(specs);
    return specs;
}

// Clients are told which server they belong to: each has a name for that.
void UpstreamGroup::identify(std::vector<PeerSpec>& specs) const {
    if (!sticky) return;
    for (PeerSpec& spec : specs) {
        if (spec.route.empty()) spec.route = sticky_identifier(spec.address.text());
    }
}

core::Result<void> UpstreamGroup::prepare() {
    for (ServerLine& line : servers) {
        auto looked = look_up_now(line);
        if (!looked) return looked;
    }
    UpstreamGroups& groups = upstream_groups();
    {
        core::ShmLock lock(*groups.updates);
        shared_ = groups.updates->make_locked<GroupShared>();
    }
    if (!shared_) return core::Error{"too many upstreams"};
    if (zone_bytes > 0) {
        auto zone = core::ShmZone::find_or_create(zone_name, zone_bytes, &groups);
        if (!zone) return zone.take_error();
        zone_ = *zone;
        store = PeerStore(*zone_);
    }
    PeerLock lock(store);
    current() = store.make(all_specs(), nullptr, ++versions_);
    if (!current()) {
        return core::Error{"shared memory zone \"" + zone_name + "\" is too small"};
    }
    return {};
}

PeerTable*& UpstreamGroup::current() { return zone_ ? shared_->table : local_; }

void UpstreamGroup::adopt(PeerTable* fresh) {
    if (!fresh) {
        LOG(core::process_log(), error, 0, "no memory in upstream zone \"%s\"", zone_name.c_str());
        return;
    }
    store.drop(std::exchange(current(), fresh));
}

void UpstreamGroup::rebuild() {
    std::vector<PeerSpec> specs = all_specs();
    PeerLock lock(store);
    if (shared_->replaced.load(std::memory_order_acquire)) return;      // somebody has said which
    adopt(store.make(specs, current(), current()->version + 1));
}

PeerTable* UpstreamGroup::table() {
    if (shared_->version.load(std::memory_order_acquire) != seen_) [[unlikely]] refresh();
    PeerLock lock(store);
    PeerTable* now = current();
    ++now->references;
    return now;
}

bool UpstreamGroup::set_down(bool backup, uint32_t index, bool down) {
    PeerTable* now = table();
    PeerLock lock(store);
    PeerList& list = backup ? now->backup : now->primary;
    bool known = index < list.count;
    if (known) {
        Peer& peer = *list.items[index];
        if (down) {
            peer.down |= peer_down;
        } else {
            peer.down &= uint8_t(~peer_down);
            peer.fails = 0;            // who says that it is up knows better
        }
        list.usable = 0;
        for (uint32_t i = 0; i < list.count; ++i) list.usable += list.items[i]->down == 0;
    }
    store.drop(now);
    return known;
}

// Names that change, and those that were not known when the configuration was read. With a zone one
// worker asks for all.
void UpstreamGroup::start(Worker& worker) {
    if (metrics_on) metrics = std::make_unique<GroupMetrics>(*this);
    if (zone_ && worker.id > 0) return;
    const auto& http = worker.configuration.http<CoreConf>(http_core);
    for (ServerLine& line : servers) {
        bool unknown = !line.host.empty() && line.addresses.empty();
        if (!line.resolve && !unknown) continue;
        auto lookup = std::make_unique<Lookup>(*this, line);
        lookup->resolver = own_resolver ? own_resolver.get() : http.resolver.get();
        if (!lookup->resolver) lookup->resolver = &worker.resolver();
        if (resolver_timeout_ms < 0) resolver_timeout_ms = http.resolver_timeout->count;
        lookup->timer.set(0);
        lookups_.push_back(std::move(lookup));
    }
}

void UpstreamGroup::stop() {
    lookups_.clear();
    pool.clear();
    metrics.reset();
}

void UpstreamGroup::room() {
    if (QueuedRequest* next = queue.pop_front()) {
        --queued;
        next->on_room();
    }
}

UpstreamGroup* UpstreamGroups::find(core::Slice host, int port) const {
    for (const auto& group : all) {
        bool same_port = group->implicit ? group->port == port : port == 0;
        if (same_port && core::iequals(group->name, host)) return group.get();
    }
    return nullptr;
}

}  // namespace server
