// Methods that choose by a hash: ip_hash, hash (as Cache::Memcached distributes keys) and hash …
// consistent (the ketama points of Cache::Memcached::Fast). The numbers are nginx's, so that a
// client or key stays with its server when the balancer is exchanged.
#include <zlib.h>

#include <algorithm>

#include "core/text.h"
#include "server/upstream/balance_parts.h"

namespace server {

namespace {

constexpr uint32_t points_per_weight = 160;

// The peer in whose part of the total weight a number falls.
uint32_t at_weight(const PeerList& list, int64_t number) {
    uint32_t i = 0;
    while (i + 1 < list.count && number >= list.items[i]->weight) number -= list.items[i++]->weight;
    return i;
}

// "backend:8080" is hashed as host and port apart; a Unix path and a name without port as they are.
void split_server(core::Slice server, core::Slice& host, core::Slice& port) {
    host = server;
    port = {};
    if (core::istarts_with(server, "unix:")) {
        host = server.substr(5);
        return;
    }
    size_t colon = server.find_last_not_of("0123456789");
    if (colon == core::Slice::npos || server[colon] != ':') return;
    host = server.substr(0, colon);
    port = server.substr(colon + 1);
}

}  // namespace

uint32_t crc32_of(core::Slice text, uint32_t before) {
    return uint32_t(::crc32(before, reinterpret_cast<const Bytef*>(text.data()),
                            uInt(text.size())));
}

int by_address(Choice& choice, int64_t now_s) {
    if (choice.list->count < 2 || choice.list->total_weight <= 0) return round_robin(choice, now_s);
    while (choice.attempts <= method_attempts_max) {
        for (char byte : choice.key) {
            choice.hash = (choice.hash * 113 + uint8_t(byte)) % 6271;
        }
        uint32_t index = at_weight(*choice.list, choice.hash % uint32_t(choice.list->total_weight));
        if (can_take(choice, index, now_s)) return int(index);
        ++choice.attempts;
    }
    return round_robin(choice, now_s);
}

int by_key(Choice& choice, int64_t now_s) {
    if (choice.list->count < 2 || choice.key.empty() || choice.list->total_weight <= 0) {
        return round_robin(choice, now_s);
    }
    while (choice.attempts <= method_attempts_max) {
        uint32_t hash = 0;
        if (choice.rehash > 0) {
            char room[24];
            hash = crc32_of(core::format_number(choice.rehash, room));
        }
        hash = crc32_of(choice.key, hash);
        choice.hash += (hash >> 16) & 0x7fff;
        ++choice.rehash;
        uint32_t index = at_weight(*choice.list, choice.hash % uint32_t(choice.list->total_weight));
        if (can_take(choice, index, now_s)) return int(index);
        ++choice.attempts;
    }
    return round_robin(choice, now_s);
}

void make_ring(HashRing& ring, const PeerTable& table) {
    ring.points.clear();
    ring.servers.clear();
    const PeerList& list = table.primary;
    for (uint32_t i = 0; i < list.count; ++i) ring.servers.emplace_back(list.items[i]->server);
    for (uint32_t i = 0; i < list.count; ++i) {
        core::Slice server = ring.servers[i];
        core::Slice host, port;
        split_server(server, host, port);
        uint32_t base = crc32_of(host);
        base = crc32_of(core::Slice("\0", 1), base);
        base = crc32_of(port, base);
        uint32_t previous = 0;
        for (uint32_t n = 0; n < uint32_t(list.items[i]->weight) * points_per_weight; ++n) {
            char bytes[4] = {char(previous & 0xff), char(previous >> 8 & 0xff),
                             char(previous >> 16 & 0xff), char(previous >> 24)};
            previous = crc32_of({bytes, 4}, base);
            ring.points.push_back({previous, server});
        }
    }
    std::stable_sort(ring.points.begin(), ring.points.end(),
                     [](const auto& a, const auto& b) { return a.hash < b.hash; });
    auto same = [](const auto& a, const auto& b) { return a.hash == b.hash; };
    ring.points.erase(std::unique(ring.points.begin(), ring.points.end(), same),
                      ring.points.end());
    ring.version = table.version;
    ring.made = true;
}

int by_ring(Choice& choice, int64_t now_s) {
    HashRing* ring = choice.ring;
    if (choice.list != &choice.table->primary || choice.key.empty() || !ring ||
        choice.attempts > method_attempts_max) {
        return round_robin(choice, now_s);
    }
    if (!ring->made || ring->version != choice.table->version) make_ring(*ring, *choice.table);
    const auto& points = ring->points;
    if (points.empty()) return -1;
    if (choice.rehash++ == 0) {
        uint32_t hash = crc32_of(choice.key);
        auto found = std::lower_bound(points.begin(), points.end(), hash,
                                      [](const auto& point, uint32_t h) { return point.hash < h; });
        choice.hash = uint32_t(found - points.begin());
    }
    while (choice.attempts <= method_attempts_max) {
        int index = round_robin_among(choice, now_s,
                                      points[choice.hash % points.size()].server);
        if (index >= 0) return index;
        ++choice.hash;
        if (++choice.attempts > method_attempts_max) break;
    }
    return round_robin(choice, now_s);
}

}  // namespace server
