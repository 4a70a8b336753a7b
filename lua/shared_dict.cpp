// The shared dictionary's hash chains, order of use and expiry. See shared_dict.h for the rule that
// keeps it whole when a process dies inside.
#include "lua/shared_dict.h"

#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "core/clock.h"
#include "core/threads.h"
#include "lua/shared_dict_layout.h"

namespace lua {
namespace {

// How many others may go for one new entry: as many as upstream lets go, and more while they are so
// small that not even a page of another size can have come free.
constexpr int evictions_max = 30;
constexpr size_t evicted_bytes_least = 2 * core::Slab::page_bytes;
constexpr int expired_per_call = 2;        // dropped in passing
// Small zones spare their pages for values.
constexpr size_t small_zone_bytes = 4 << 20;
constexpr size_t bytes_per_bucket_small = 1024;
constexpr size_t bytes_per_bucket = 256;
constexpr size_t number_bytes = sizeof(double);

const char zone_tag = 0;

int64_t now_ms() {
    if (!core::ThreadPool::inside()) [[likely]] return core::Clock::wall_ms();
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return int64_t(now.tv_sec) * 1000 + now.tv_nsec / 1000000;
}

int64_t expiry(int64_t ttl_ms) { return ttl_ms > 0 ? now_ms() + ttl_ms : 0; }

size_t value_bytes_of(const SharedDict::Value& value) {
    switch (value.type) {
    case SharedDict::string: return value.text.size();
    case SharedDict::number: return number_bytes;
    case SharedDict::boolean: return 1;
    default: return 0;
    }
}

void write_value(char* to, const SharedDict::Value& value) {
    if (value.type == SharedDict::string) {
        if (!value.text.empty()) std::memcpy(to, value.text.data(), value.text.size());
    } else if (value.type == SharedDict::number) {
        std::memcpy(to, &value.number, number_bytes);
    } else if (value.type == SharedDict::boolean) {
        *to = value.number != 0;
    }
}

}  // namespace

// ---- making one ----

core::Result<std::unique_ptr<SharedDict>> SharedDict::open(core::Slice name, size_t bytes) {
    auto zone = core::ShmZone::find_or_create(name, bytes, &zone_tag);
    if (!zone) return zone.take_error();
    std::unique_ptr<SharedDict> dict(new SharedDict);
    dict->zone_ = *zone;
    dict->zone_->on_owner_death(repair);
    core::ShmLock lock(*dict->zone_);
    if (!dict->zone_->root<Root>() && !make_root(*dict->zone_)) {
        return core::Error{"no room in shared dict \"" + std::string(name) + "\""};
    }
    return dict;
}

SharedDict::Root* SharedDict::make_root(core::ShmZone& zone) {
    bool small = zone.bytes() < small_zone_bytes;
    size_t share = small ? bytes_per_bucket_small : bytes_per_bucket;
    size_t count = std::bit_floor(zone.bytes() / share);
    void* room = zone.allocate_locked(sizeof(Root) + count * sizeof(Entry*));
    if (!room) return nullptr;
    auto* root = ::new (room) Root;
    root->buckets = reinterpret_cast<Entry**>(root + 1);
    std::memset(root->buckets, 0, count * sizeof(Entry*));
    root->mask = uint32_t(count - 1);
    root->newest = root->oldest = nullptr;
    root->keys = root->evicted = root->expired = root->refused = 0;
    zone.set_root(root);
    return root;
}

// ---- chains and order ----

uint32_t SharedDict::hash_of(core::Slice key) { return uint32_t(std::hash<core::Slice>{}(key)); }

SharedDict::Entry* SharedDict::find(core::Slice key, uint32_t hash) const {
    const Root& r = root();
    for (Entry* at = r.buckets[hash & r.mask]; at; at = at->chain) {
        if (at->hash == hash && at->key() == key) return at;
    }
    return nullptr;
}

SharedDict::Entry* SharedDict::find_live(core::Slice key) const {
    Entry* entry = find(key, hash_of(key));
    return entry && !entry->expired(now_ms()) ? entry : nullptr;
}

// The entry is complete: it appears with the one store to its bucket.
void SharedDict::insert(Entry& entry) {
    Root& r = root();
    Entry*& bucket = r.buckets[entry.hash & r.mask];
    entry.chain = bucket;
    in_order();
    bucket = &entry;
    in_order();
    r.link_newest(entry);
    ++r.keys;
}

void SharedDict::drop(Entry& entry) {
    Root& r = root();
    Entry** at = &r.buckets[entry.hash & r.mask];
    while (*at != &entry) at = &(*at)->chain;
    *at = entry.chain;
    in_order();
    r.unlink(entry);
    --r.keys;
    if (entry.type == list) free_list(entry);
    zone_->free_locked(&entry);
}

void SharedDict::touch(Entry& entry) {
    Root& r = root();
    if (r.newest == &entry) return;
    r.unlink(entry);
    r.link_newest(entry);
}

void SharedDict::drop_expired() {
    int64_t now = now_ms();
    for (int n = 0; n < expired_per_call; n++) {
        Entry* oldest = root().oldest;
        if (!oldest || !oldest->expired(now)) return;
        ++root().expired;
        drop(*oldest);
    }
}

bool SharedDict::evict_oldest() {
    Entry* oldest = root().oldest;
    if (!oldest) return false;
    drop(*oldest);
    drop_expired();
    return true;
}

void SharedDict::free_list(Entry& entry) {
    for (Node* at = entry.ends().first; at;) {
        Node* next = at->next;
        zone_->free_locked(at);
        at = next;
    }
}

SharedDict::Entry* SharedDict::allocate_entry(size_t bytes, bool may_evict, bool& evicted) {
    void* room = zone_->allocate_locked(bytes);
    size_t used = zone_->slab().used_bytes();
    auto freed = [&] { return used - zone_->slab().used_bytes(); };
    for (int tries = 0; !room && may_evict; tries++) {
        if (tries >= evictions_max && freed() >= evicted_bytes_least) break;
        if (!evict_oldest()) break;
        ++root().evicted;
        evicted = true;
        room = zone_->allocate_locked(bytes);
    }
    if (!room) ++root().refused;
    return static_cast<Entry*>(room);
}

SharedDict::Entry* SharedDict::make_entry(core::Slice key, uint32_t hash, size_t value_bytes,
                                          bool may_evict, bool& evicted) {
    Entry* entry = allocate_entry(Entry::bytes_for(key.size(), value_bytes), may_evict, evicted);
    if (!entry) return nullptr;
    entry->hash = hash;
    entry->writing = 0;
    entry->key_bytes = uint16_t(key.size());
    entry->value_bytes = uint32_t(value_bytes);
    std::memcpy(entry->data, key.data(), key.size());
    return entry;
}

// ---- values ----

SharedDict::Status SharedDict::get(core::Slice key, bool stale_too, Reading& out) {
    out.type = nil;
    core::ShmLock lock(*zone_);
    Entry* entry = find(key, hash_of(key));
    if (!entry) return Status::not_found;
    out.stale = entry->expired(now_ms());
    if (out.stale && !stale_too) return Status::not_found;
    if (!out.stale) touch(*entry);
    if (entry->type == list) return Status::is_a_list;
    out.flags = entry->flags;
    const char* value = entry->value();
    if (entry->type == number) {
        std::memcpy(&out.number, value, number_bytes);
    } else if (entry->type == boolean) {
        out.number = *value;
    } else {
        out.text_bytes = entry->value_bytes;
        out.text = out.buffer;
        if (out.text_bytes > out.room) {
            out.text = static_cast<char*>(std::malloc(out.text_bytes));
            if (!out.text) return Status::no_memory;
        }
        if (out.text_bytes) std::memcpy(out.text, value, out.text_bytes);
    }
    out.type = Type(entry->type);
    return Status::ok;
}

SharedDict::Status SharedDict::store(int mode, core::Slice key, const Value& value,
                                     int64_t ttl_ms, int flags, bool& evicted) {
    evicted = false;
    uint32_t hash = hash_of(key);
    core::ShmLock lock(*zone_);
    drop_expired();
    Entry* entry = find(key, hash);
    bool live = entry && !entry->expired(now_ms());
    if (live) touch(*entry);
    if (live && (mode & add)) return Status::exists;
    if (!live && (mode & replace)) return Status::not_found;
    int64_t expires_ms = expiry(ttl_ms);
    size_t bytes = value_bytes_of(value);
    if (entry && entry->type != list && entry->value_bytes == bytes) {
        entry->writing = 1;
        in_order();
        write_value(entry->value(), value);
        entry->type = value.type;
        entry->flags = flags;
        entry->expires_ms = expires_ms;
        in_order();
        entry->writing = 0;
        if (!live) touch(*entry);
        return Status::ok;
    }
    if (entry) drop(*entry);
    return store_new(key, hash, value, expires_ms, flags, !(mode & safely), evicted);
}

SharedDict::Status SharedDict::store_new(core::Slice key, uint32_t hash, const Value& value,
                                         int64_t expires_ms, int flags, bool may_evict,
                                         bool& evicted) {
    Entry* entry = make_entry(key, hash, value_bytes_of(value), may_evict, evicted);
    if (!entry) return Status::no_memory;
    entry->type = value.type;
    entry->flags = flags;
    entry->expires_ms = expires_ms;
    write_value(entry->value(), value);
    insert(*entry);
    return Status::ok;
}

SharedDict::Status SharedDict::remove(core::Slice key) {
    core::ShmLock lock(*zone_);
    drop_expired();
    Entry* entry = find(key, hash_of(key));
    if (!entry) return Status::not_found;
    drop(*entry);
    return Status::ok;
}

SharedDict::Status SharedDict::increment(core::Slice key, double& amount, const double* start,
                                         int64_t start_ttl_ms, bool& evicted) {
    evicted = false;
    uint32_t hash = hash_of(key);
    core::ShmLock lock(*zone_);
    drop_expired();
    Entry* entry = find(key, hash);
    bool live = entry && !entry->expired(now_ms());
    if (live) {
        touch(*entry);
        if (entry->type != number) return Status::not_a_number;
        double sum;
        std::memcpy(&sum, entry->value(), number_bytes);
        sum += amount;
        std::memcpy(entry->value(), &sum, number_bytes);    // one store: never torn
        amount = sum;
        return Status::ok;
    }
    if (!start) return Status::not_found;
    if (entry) drop(*entry);
    Value first{number, *start + amount, {}};
    Status status = store_new(key, hash, first, expiry(start_ttl_ms), 0, true, evicted);
    if (status == Status::ok) amount = first.number;
    return status;
}

bool SharedDict::ttl_ms(core::Slice key, int64_t& ttl_ms) {
    core::ShmLock lock(*zone_);
    Entry* entry = find(key, hash_of(key));
    if (!entry) return false;
    ttl_ms = entry->expires_ms ? entry->expires_ms - now_ms() : 0;
    return true;
}

bool SharedDict::set_ttl(core::Slice key, int64_t ttl_ms) {
    core::ShmLock lock(*zone_);
    Entry* entry = find(key, hash_of(key));
    if (!entry) return false;
    entry->expires_ms = expiry(ttl_ms);
    return true;
}

// ---- lists ----

// The live list of this key; a new one when there is none.
SharedDict::Entry* SharedDict::list_for_push(core::Slice key, Status& status) {
    uint32_t hash = hash_of(key);
    Entry* entry = find(key, hash);
    status = Status::ok;
    if (entry && !entry->expired(now_ms())) {
        touch(*entry);
        if (entry->type == list) return entry;
        status = Status::not_a_list;
        return nullptr;
    }
    if (entry) drop(*entry);
    bool evicted = false;
    entry = make_entry(key, hash, Entry::list_bytes(key.size()), false, evicted);
    if (!entry) {
        status = Status::no_memory;
        return nullptr;
    }
    entry->type = list;
    entry->flags = 0;
    entry->expires_ms = 0;
    entry->ends() = {};
    insert(*entry);
    return entry;
}

SharedDict::Status SharedDict::push(core::Slice key, const Value& value, End end,
                                    uint32_t& length) {
    core::ShmLock lock(*zone_);
    drop_expired();
    Status status;
    Entry* entry = list_for_push(key, status);
    if (!entry) return status;
    if (!append(*entry, value, end)) {
        if (!entry->ends().first) drop(*entry);
        return Status::no_memory;
    }
    length = entry->ends().count;
    return Status::ok;
}

bool SharedDict::append(Entry& entry, const Value& value, End end) {
    size_t bytes = value_bytes_of(value);
    auto* node = static_cast<Node*>(zone_->allocate_locked(sizeof(Node) + bytes));
    if (!node) return false;
    node->type = value.type;
    node->bytes = uint32_t(bytes);
    write_value(node->data, value);
    entry.ends().link(*node, end);
    entry.ends().count++;
    return true;
}

SharedDict::Status SharedDict::pop(core::Slice key, End end, Type& type, double& value,
                                   std::string& text) {
    core::ShmLock lock(*zone_);
    drop_expired();
    Entry* entry = find_live(key);
    if (!entry) return Status::not_found;
    touch(*entry);
    if (entry->type != list) return Status::not_a_list;
    ListEnds& ends = entry->ends();
    Node* node = end == End::left ? ends.first : ends.last;
    if (!node) {
        drop(*entry);
        return Status::not_found;
    }
    type = Type(node->type);
    if (type == number) {
        std::memcpy(&value, node->data, number_bytes);
    } else {
        text.assign(node->data, node->bytes);
    }
    ends.unlink(*node);
    zone_->free_locked(node);
    if (--ends.count == 0 || !ends.first) drop(*entry);
    return Status::ok;
}

SharedDict::Status SharedDict::length(core::Slice key, uint32_t& length) {
    core::ShmLock lock(*zone_);
    drop_expired();
    length = 0;
    Entry* entry = find_live(key);
    if (!entry) return Status::ok;
    touch(*entry);
    if (entry->type != list) return Status::not_a_list;
    length = entry->ends().count;
    return Status::ok;
}

// ---- the whole ----

void SharedDict::flush_all() {
    core::ShmLock lock(*zone_);
    for (Entry* at = root().newest; at; at = at->older) at->expires_ms = 1;
    evict_oldest();
}

int SharedDict::flush_expired(int max) {
    core::ShmLock lock(*zone_);
    int64_t now = now_ms();
    int dropped = 0;
    for (Entry* at = root().oldest; at;) {
        Entry* next = at->newer;
        if (at->expired(now)) {
            drop(*at);
            ++root().expired;
            if (++dropped == max) break;
        }
        at = next;
    }
    return dropped;
}

std::vector<std::string> SharedDict::keys(int max) {
    std::vector<std::string> found;
    core::ShmLock lock(*zone_);
    int64_t now = now_ms();
    for (Entry* at = root().oldest; at; at = at->newer) {
        if (at->expired(now)) continue;
        found.emplace_back(at->key());
        if (max > 0 && found.size() == size_t(max)) break;
    }
    return found;
}

SharedDict::Use SharedDict::use() {
    core::ShmLock lock(*zone_);
    const Root& r = root();
    return {int64_t(capacity()), int64_t(zone_->slab().free_page_bytes()),
            int64_t(zone_->slab().used_bytes()), r.keys, r.evicted, r.expired, r.refused};
}

size_t SharedDict::free_bytes() {
    core::ShmLock lock(*zone_);
    return zone_->slab().free_page_bytes();
}

}  // namespace lua
