// Choosing a peer: the methods of upstream groups. A Choice is one request's way through a table
// over all its tries; choose() takes a peer for a try, and give_back() says how that went.
//
// Called by upstream/session with the group's store locked. Knows no HTTP: what a hash is made of
// is given as text or an address.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/slice.h"
#include "server/upstream/peers.h"

namespace server {

enum class BalanceMethod : uint8_t {
    round_robin, least_conn, ip_hash, hash, consistent_hash, random, random_two,
    random_two_header, random_two_last_byte, least_time_header, least_time_last_byte,
};

// The points of a consistent hash, by the version of the table they were made for.
struct HashRing {
    struct Point {
        uint32_t hash;
        core::Slice server;
    };
    uint64_t version = 0;
    bool made = false;
    std::vector<Point> points;
    std::vector<std::string> servers;      // what the points' slices show
};

struct Choice {
    PeerTable* table = nullptr;            // a reference of its own
    PeerList* list = nullptr;              // primary, then backup
    Peer* current = nullptr;               // likewise
    BalanceMethod method = BalanceMethod::round_robin;
    bool counts_inflight = false;          // least_time … inflight
    bool inflight = false;
    int tries = 0;                         // servers that may still be tried, this one included
    int attempts = 0;                      // of a method that may miss; past 20: round robin
    core::Slice key;                       // hash; for ip_hash the address's bytes
    uint32_t hash = 0, rehash = 0;
    HashRing* ring = nullptr;
    core::Slice wanted;                    // sticky: the route asked for; null data: none
    uint64_t* tried = nullptr;             // a bit for each peer of `list`
    uint64_t tried_few = 0;

    bool was_tried(uint32_t index) const { return tried[index / 64] >> (index % 64) & 1; }
    void mark_tried(uint32_t index) { tried[index / 64] |= 1ull << (index % 64); }
    // Words that `tried` needs; up to one is in the object.
    static uint32_t words(const PeerTable& table);
};

// Null: no server is to be had ("no live upstreams"). The peer's count of requests goes up.
Peer* choose(Choice& choice, const PeerStore& store);

enum class TryEnd : uint8_t {
    passed,        // it answered
    failed,        // counts against the server
    next,          // it answered, but another one is asked (403, 404): does not
};
struct TryTimes {
    int64_t header_ms = -1;        // -1: it never came to that
    int64_t response_ms = 0;
};
// Ends the try; the request's reference to the peer is gone. True: the server was disabled by it.
bool give_back(Choice& choice, const PeerStore& store, TryEnd end, const TryTimes& times);
// The head has come (least_time header inflight).
void note_header_time(Choice& choice, int64_t ms);

// Whether the peer may be asked now: not down, not disabled by failures, not full.
bool is_available(const Peer& peer, int64_t now_s);
// Its weight now: less while it starts slowly.
int weight_now(const Peer& peer);

void make_ring(HashRing& ring, const PeerTable& table);
uint32_t crc32_of(core::Slice text, uint32_t before = 0);

}  // namespace server
