// Finding and noting which server a client belongs to.
#include "server/upstream/sticky.h"

#include <openssl/evp.h>

#include <cstring>

#include "core/clock.h"
#include "core/shm.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/upstream/peers.h"

namespace server {

namespace {

using core::Slice;

constexpr size_t identifier_bytes_max = 32;
constexpr int probes = 8;               // places an entry may be at; the oldest gives way

// A learned session, in the zone.
struct Learned {
    uint8_t key[16];                    // of the session's identifier
    int64_t used_ms;                    // 0: free
    uint8_t size;
    char server[identifier_bytes_max];
};

struct LearnedTable {
    uint64_t count;
    Learned entries[1];
};

void md5(Slice text, uint8_t (&to)[16]) {
    unsigned size = 0;
    EVP_Digest(text.data(), text.size(), to, &size, EVP_md5(), nullptr);
}

LearnedTable* table_of(core::ShmZone& zone) {
    if (auto* made = zone.root<LearnedTable>()) return made;
    size_t bytes = zone.slab().free_page_bytes();
    while (bytes > core::Slab::page_bytes) {
        void* room = zone.allocate_locked(bytes);
        if (room) {
            std::memset(room, 0, bytes);
            auto* made = static_cast<LearnedTable*>(room);
            made->count = (bytes - sizeof(uint64_t)) / sizeof(Learned);
            zone.set_root(made);
            return made;
        }
        bytes -= core::Slab::page_bytes;
    }
    return nullptr;
}

// The entry of a session; with `make` the place it may take.
Learned* entry_of(LearnedTable& table, const uint8_t (&key)[16], bool make) {
    uint64_t start;
    std::memcpy(&start, key, sizeof start);
    Learned* oldest = nullptr;
    for (int i = 0; i < probes; ++i) {
        Learned& entry = table.entries[(start + uint64_t(i)) % table.count];
        if (entry.used_ms && std::memcmp(entry.key, key, sizeof key) == 0) return &entry;
        if (!oldest || entry.used_ms < oldest->used_ms) oldest = &entry;
    }
    return make ? oldest : nullptr;
}

Slice first_value(Request& request, const std::vector<ComplexValue>& values) {
    for (const ComplexValue& value : values) {
        Slice text = value.evaluate(request);
        if (!text.empty()) return text;
    }
    return {};
}

Slice learned_server(Request& request, core::ShmZone& zone, Slice session, int64_t timeout_ms) {
    uint8_t key[16];
    md5(session, key);
    core::ShmLock lock(zone);
    LearnedTable* table = table_of(zone);
    Learned* entry = table ? entry_of(*table, key, false) : nullptr;
    int64_t now_ms = core::Clock::monotonic_ms();
    if (!entry || now_ms - entry->used_ms > timeout_ms) return {};
    entry->used_ms = now_ms;
    return request.arena.copy({entry->server, entry->size});
}

void learn(core::ShmZone& zone, Slice session, Slice server) {
    uint8_t key[16];
    md5(session, key);
    core::ShmLock lock(zone);
    LearnedTable* table = table_of(zone);
    if (!table || server.size() > identifier_bytes_max) return;
    Learned* entry = entry_of(*table, key, true);
    std::memcpy(entry->key, key, sizeof key);
    entry->used_ms = std::max<int64_t>(core::Clock::monotonic_ms(), 1);
    entry->size = uint8_t(server.size());
    std::memcpy(entry->server, server.data(), server.size());
}

void set_cookie(Request& request, const StickyRule& rule, Slice server) {
    core::Appender text(request.arena, 128);
    text.append(rule.cookie);
    text.append('=');
    text.append(server);
    if (rule.expires_s == INT64_MAX) {
        text.append("; expires=Thu, 31-Dec-37 23:55:55 GMT; max-age=315360000");
    } else if (rule.expires_s >= 0) {
        char date[40];
        size_t size = core::format_cookie_date(core::Clock::seconds() + rule.expires_s, date);
        text.append("; expires=");
        text.append(Slice(date, size));
        text.append("; max-age=");
        text.append_number(rule.expires_s);
    }
    Slice domain = rule.domain.evaluate(request);
    if (!domain.empty()) {
        text.append("; domain=");
        text.append(domain);
    }
    if (rule.http_only) text.append("; httponly");
    if (rule.secure) text.append("; secure");
    Slice same_site = rule.same_site.evaluate(request);
    if (!same_site.empty()) {
        text.append("; samesite=");
        text.append(same_site);
    }
    if (!rule.path.empty()) {
        text.append("; path=");
        text.append(rule.path);
    }
    request.response.headers.add("Set-Cookie", text.take());
}

}  // namespace

std::string sticky_identifier(Slice address) {
    uint8_t hash[16];
    md5(address, hash);
    std::string text;
    core::append_hex(text, {reinterpret_cast<const char*>(hash), sizeof hash});
    return text;
}

Slice StickyRule::find(Request& request) const {
    Slice value = first_value(request, lookup);
    if (value.empty()) return {};
    if (kind != Kind::learn) return value;
    return learned_server(request, *zone, value, timeout_ms);
}

void StickyRule::chosen(Request& request, const Peer& peer) const {
    if (kind == Kind::cookie) return set_cookie(request, *this, peer.route);
    if (kind == Kind::route) return;
    Slice session = first_value(request, create);
    if (!session.empty()) learn(*zone, session, peer.route);
}

}  // namespace server
