// SharedDict: the dictionary behind ngx.shared.NAME, in a shared-memory zone: strings, numbers,
// booleans and lists by key, with expiry and eviction of what was unused longest. Called by
// lua/api/shdict.cpp; knows nothing of Lua's stack.
//
// A process may be killed at any instruction. Therefore every change to a chain of entries is one
// store, an entry is written in full before it is linked, and one that is written in place is
// marked meanwhile. The next process to take the lock walks the chains, drops what is marked and
// rebuilds the rest (repair).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/shm.h"
#include "core/slice.h"

namespace lua {

class SharedDict {
  public:
    // Lua's numbers of the types.
    enum Type : uint8_t { nil = 0, boolean = 1, number = 3, string = 4, list = 5 };

    struct Value {
        Type type = nil;
        double number = 0;             // also a boolean's
        core::Slice text;              // of a string
    };

    // A value read. A string that does not fit `buffer` comes in memory of its own, from malloc().
    struct Reading {
        char* buffer = nullptr;
        size_t room = 0;
        Type type = nil;
        double number = 0;
        char* text = nullptr;
        size_t text_bytes = 0;
        int flags = 0;
        bool stale = false;
    };

    enum class Status : uint8_t {
        ok, not_found, exists, no_memory, not_a_number, is_a_list, not_a_list,
    };

    enum StoreMode : int { any = 0, add = 1, replace = 2, safely = 4 };
    enum class End : uint8_t { left, right };

    static constexpr size_t bytes_min = 8192;
    static constexpr size_t key_bytes_max = 65535;

    // Makes the dictionary, or finds the one of this name and size that an earlier configuration
    // made. Only in the master.
    static core::Result<std::unique_ptr<SharedDict>> open(core::Slice name, size_t bytes);

    // Expired values too when `stale_too`.
    Status get(core::Slice key, bool stale_too, Reading& out);
    // Time to live 0: for ever. `evicted`: others had to go for it.
    Status store(int mode, core::Slice key, const Value& value, int64_t ttl_ms, int flags,
                 bool& evicted);
    Status remove(core::Slice key);
    // Adds to a number, in `amount`, which is then the sum. Without the key: not_found, or starts
    // at *start.
    Status increment(core::Slice key, double& amount, const double* start, int64_t start_ttl_ms,
                     bool& evicted);
    // False: not there. 0: lives for ever; negative: for how long it is expired already, though its
    // memory was not needed yet. Neither call counts as a use.
    bool ttl_ms(core::Slice key, int64_t& ttl_ms);
    bool set_ttl(core::Slice key, int64_t ttl_ms);

    Status push(core::Slice key, const Value& value, End end, uint32_t& length);
    // Text is copied into `text`.
    Status pop(core::Slice key, End end, Type& type, double& number, std::string& text);
    Status length(core::Slice key, uint32_t& length);

    void flush_all();                          // all are expired from now on
    int flush_expired(int max);                // 0: all; returns how many went
    std::vector<std::string> keys(int max);    // live ones, oldest first; 0: all

    // How it is used: now, and since it was made.
    struct Use {
        int64_t capacity_bytes, free_bytes;          // free: whole pages
        int64_t used_bytes;
        int64_t keys, evicted, expired, refused;
    };
    Use use();

    size_t capacity() const { return zone_->bytes(); }
    size_t free_bytes();
    const std::string& name() const { return zone_->name(); }

    // For tests: the lock, and what happens when its holder died.
    core::ShmZone& zone() { return *zone_; }
    static void repair(core::ShmZone& zone);

  private:
    struct Entry;
    struct Node;
    struct ListEnds;
    struct Root;
    struct Repair;

    SharedDict() = default;
    static uint32_t hash_of(core::Slice key);
    static Root* make_root(core::ShmZone& zone);
    Root& root() const { return *zone_->root<Root>(); }

    Entry* find(core::Slice key, uint32_t hash) const;      // live or expired
    Entry* find_live(core::Slice key) const;
    Entry* allocate_entry(size_t bytes, bool may_evict, bool& evicted);
    Entry* make_entry(core::Slice key, uint32_t hash, size_t value_bytes, bool may_evict,
                      bool& evicted);
    Status store_new(core::Slice key, uint32_t hash, const Value& value, int64_t expires_ms,
                     int flags, bool may_evict, bool& evicted);
    void insert(Entry& entry);
    void drop(Entry& entry);
    void touch(Entry& entry);
    void drop_expired();
    bool evict_oldest();
    void free_list(Entry& entry);
    Entry* list_for_push(core::Slice key, Status& status);
    bool append(Entry& entry, const Value& value, End end);

    std::shared_ptr<core::ShmZone> zone_;
};

}  // namespace lua
