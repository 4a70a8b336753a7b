// Making and dropping peers and their tables.
#include "server/upstream/peers.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <unordered_map>

#include "core/arena.h"
#include "core/clock.h"
#include "core/shm.h"

namespace server {

void PeerStore::lock() const {
    if (zone_) zone_->lock();
}

void PeerStore::unlock() const {
    if (zone_) zone_->unlock();
}

void* PeerStore::allocate(size_t bytes) const {
    if (zone_) return zone_->allocate_locked(bytes);
    if (arena_) return arena_->allocate(bytes);
    void* memory = std::malloc(bytes);
    if (!memory) core::out_of_memory(bytes);
    return memory;
}

void PeerStore::free(void* memory) const {
    if (zone_) {
        zone_->free_locked(memory);
    } else if (!arena_) {
        std::free(memory);
    }
}

Peer* PeerStore::make_peer(const PeerSpec& spec) const {
    std::string name = spec.address.text();
    size_t texts = name.size() + spec.server.size() + spec.route.size();
    void* room = allocate(sizeof(Peer) + texts);
    if (!room) return nullptr;
    std::memset(room, 0, sizeof(Peer));
    auto* peer = ::new (room) Peer{};
    char* at = reinterpret_cast<char*>(peer + 1);
    auto keep = [&](const std::string& text) {
        std::memcpy(at, text.data(), text.size());
        core::Slice kept{at, text.size()};
        at += text.size();
        return kept;
    };
    peer->name = keep(name);
    peer->server = keep(spec.server);
    peer->route = keep(spec.route);
    peer->address = spec.address;
    return peer;
}

namespace {

// Counters stay, settings are the new ones.
void configure(Peer& peer, const PeerSpec& spec, bool fresh) {
    peer.weight = spec.weight;
    peer.max_conns = spec.max_conns;
    peer.max_fails = spec.max_fails;
    peer.fail_timeout_s = spec.fail_timeout_s;
    peer.slow_start_ms = spec.slow_start_ms;
    if (fresh) {
        peer.effective_weight = spec.weight;
    } else {
        peer.effective_weight = std::min(peer.effective_weight, spec.weight);
    }
    uint8_t kept = peer.down & peer_unhealthy;
    peer.down = uint8_t(kept | (spec.down ? peer_down : 0) | (spec.drain ? peer_draining : 0));
}

// The peers of a table by what makes them the same; with thousands of them, and the zone locked,
// each is found at once.
class KnownPeers {
  public:
    explicit KnownPeers(const PeerTable* table) {
        if (!table) return;
        peers_.reserve(table->primary.count + table->backup.count);
        for (const PeerList* list : {&table->primary, &table->backup}) {
            for (uint32_t i = 0; i < list->count; ++i) {
                Peer* peer = list->items[i];
                peers_.emplace(Key{peer->address, peer->server, peer->route}, peer);
            }
        }
    }
    Peer* find(const PeerSpec& spec) const {
        if (peers_.empty()) return nullptr;
        auto at = peers_.find(Key{spec.address, spec.server, spec.route});
        return at == peers_.end() ? nullptr : at->second;
    }

  private:
    struct Key {
        const core::Address& address;
        core::Slice server, route;
        bool operator==(const Key& other) const {
            return address == other.address && server == other.server && route == other.route;
        }
    };
    struct Hash {
        size_t operator()(const Key& key) const {
            std::hash<core::Slice> hash;
            return (of(key.address) * 31 + hash(key.server)) * 31 + hash(key.route);
        }
        static size_t of(const core::Address& address) {
            std::hash<core::Slice> hash;
            char room[INET6_ADDRSTRLEN + 128];
            size_t port = size_t(address.port());
            if (address.family() == AF_UNIX) return hash(address.text());
            return hash(address.ip_into(room, sizeof room)) + port;
        }
    };
    std::unordered_map<Key, Peer*, Hash> peers_;
};

void put(PeerList& list, Peer* peer) {
    list.items[list.count++] = peer;
    list.total_weight += peer->weight;
    if (!peer->down) ++list.usable;
}

}  // namespace

PeerTable* PeerStore::make(const std::vector<PeerSpec>& specs, const PeerTable* before,
                           uint64_t version) const {
    void* room = allocate(sizeof(PeerTable) + sizeof(Peer*) * specs.size());
    if (!room) return nullptr;
    auto* table = ::new (room) PeerTable{};
    table->references = 1;
    table->version = version;
    auto** items = reinterpret_cast<Peer**>(table + 1);
    size_t primaries = size_t(std::count_if(specs.begin(), specs.end(),
                                            [](const PeerSpec& spec) { return !spec.backup; }));
    table->primary.items = items;
    table->backup.items = items + primaries;
    const KnownPeers known(before);
    for (const PeerSpec& spec : specs) {
        Peer* peer = known.find(spec);
        bool fresh = !peer;
        if (fresh) peer = make_peer(spec);
        if (!peer) {
            drop(table);
            return nullptr;
        }
        configure(*peer, spec, fresh);
        if (fresh && before) peer->start_ms = core::Clock::monotonic_ms();
        hold(*peer);
        put(spec.backup ? table->backup : table->primary, peer);
    }
    table->single = specs.size() == 1 && primaries == 1;
    return table;
}

void PeerStore::drop(Peer* peer) const {
    if (--peer->references == 0) free(peer);
}

void PeerStore::drop(PeerTable* table) const {
    if (--table->references > 0) return;
    for (const PeerList* list : {&table->primary, &table->backup}) {
        for (uint32_t i = 0; i < list->count; ++i) drop(list->items[i]);
    }
    free(table);
}

std::vector<PeerSpec> specs_of(const PeerTable& table) {
    std::vector<PeerSpec> specs;
    for (const PeerList* list : {&table.primary, &table.backup}) {
        for (uint32_t i = 0; i < list->count; ++i) {
            const Peer& peer = *list->items[i];
            PeerSpec spec;
            spec.server = peer.server;
            spec.route = peer.route;
            spec.address = peer.address;
            spec.weight = peer.weight;
            spec.max_conns = peer.max_conns;
            spec.max_fails = peer.max_fails;
            spec.fail_timeout_s = peer.fail_timeout_s;
            spec.slow_start_ms = peer.slow_start_ms;
            spec.backup = list == &table.backup;
            spec.down = peer.down & peer_down;
            spec.drain = peer.down & peer_draining;
            specs.push_back(std::move(spec));
        }
    }
    return specs;
}

}  // namespace server
