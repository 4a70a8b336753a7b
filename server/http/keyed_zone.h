// KeyedZone: entries by key in shared memory, with an order of last use: what limit_req and
// limit_conn count in. It knows neither requests nor what the numbers mean.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/log.h"
#include "core/shm.h"
#include "server/http/variables.h"

namespace server {

struct MetricTable;

// In shared memory; the key's bytes follow.
struct KeyedEntry {
    KeyedEntry* next;              // in its bucket
    KeyedEntry* newer;
    KeyedEntry* older;
    uint32_t hash;
    uint32_t key_bytes;
    int64_t count;                 // of those who use it now
    int64_t excess;                // limit_req: thousandths of requests…
    int64_t last_ms;               // …at this time

    core::Slice key() const { return {reinterpret_cast<const char*>(this + 1), key_bytes}; }
};

class KeyedZone {
  public:
    std::string name;
    int64_t bytes = 0;             // 0: used, but not defined yet
    ComplexValue key;
    int64_t rate = 1000;           // limit_req: thousandths of requests a second

    // Finds the living zone or makes one. One that counted another key is not taken over.
    core::Result<void> open(const void* tag, const char* module);

    // The key of a request; empty: it has none, or (which is logged) one that is too long.
    core::Slice key_of(Request& request, size_t bytes_max) const;

    core::ShmZone& memory() const { return *zone_; }

    // Counts in this worker's row of a table whose only label is the zone's name.
    void count(const MetricTable& table, size_t value);

    // With memory() locked:
    KeyedEntry* find(core::Slice key, uint32_t hash);   // it becomes the newest
    KeyedEntry* add(core::Slice key, uint32_t hash);    // null when there is no room
    void remove(KeyedEntry& entry);
    KeyedEntry* oldest();
    // Entries known from before are gone when this has changed: a process died in here.
    uint64_t generation();

  private:
    struct Root;
    static Root* make_root(core::ShmZone& zone, core::Slice key, uint64_t generation);
    Root& root() const;
    void unlink(Root& root, KeyedEntry& entry);
    void link_newest(Root& root, KeyedEntry& entry);

    std::shared_ptr<core::ShmZone> zone_;
    std::atomic<int64_t>* counters_ = nullptr;
};

// A configuration's zones of one module. They may be used in front of their definition.
class KeyedZones {
  public:
    std::shared_ptr<KeyedZone> named(core::Slice name);
    // limit_req_zone KEY zone=NAME:SIZE [rate=RATE]
    conf::Result<void> define(const conf::Line& line, bool with_rate);
    core::Result<void> open(const void* tag, const char* module);

  private:
    std::vector<std::shared_ptr<KeyedZone>> zones_;
};

// limit_req_log_level and its like.
struct LimitLevel {
    core::Level level = core::Level::error;
};
conf::Result<void> parse_setting(LimitLevel& to, const conf::Line& line);

}  // namespace server
