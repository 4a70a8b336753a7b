// Makes a shared dictionary whole again after a process was killed inside its lock. Every entry
// that was complete is kept; one that was being changed in place goes.
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/log.h"
#include "lua/shared_dict_layout.h"

namespace lua {

// A repair in progress; the lock is held throughout.
struct SharedDict::Repair {
    core::ShmZone& zone;
    Root& root;
    std::vector<Entry*> entries;           // oldest first, once sorted
    size_t used_bytes = 0;

    core::Slab& slab() { return zone.slab(); }

    bool whole(const Entry* entry) {
        size_t room = slab().size_of(entry);
        return room >= offsetof(Entry, data) &&
               room >= Entry::bytes_for(entry->key_bytes, entry->value_bytes);
    }

    bool whole(const Node* node) {
        size_t room = slab().size_of(node);
        return room >= sizeof(Node) && room >= offsetof(Node, data) + node->bytes;
    }

    // Links the list anew along its forward chain. False when nothing is left of it.
    bool mend_list(Entry& entry) {
        ListEnds& ends = entry.ends();
        Node* previous = nullptr;
        uint32_t count = 0;
        for (Node** link = &ends.first; *link; link = &(*link)->next) {
            if (!whole(*link)) {
                *link = nullptr;
                break;
            }
            (*link)->prev = previous;
            previous = *link;
            used_bytes += slab().size_of(previous);
            count++;
        }
        ends.last = previous;
        ends.count = count;
        return count > 0;
    }

    void collect_chain(Entry*& bucket) {
        Entry** link = &bucket;
        while (Entry* entry = *link) {
            if (!whole(entry)) {
                *link = nullptr;
                return;
            }
            bool keep = !entry->writing && (entry->type != list || mend_list(*entry));
            if (!keep) {
                *link = entry->chain;
                slab().free(entry);
                continue;
            }
            used_bytes += slab().size_of(entry);
            entries.push_back(entry);
            link = &entry->chain;
        }
    }

    // The order of use as far as its chain can be followed; what it does not reach is oldest.
    void sort_by_use() {
        std::unordered_map<const Entry*, bool> placed;
        for (const Entry* entry : entries) placed[entry] = false;
        std::vector<Entry*> newest_first;
        for (Entry* at = root.newest; at; at = at->older) {
            auto found = placed.find(at);
            if (found == placed.end() || found->second) break;
            found->second = true;
            newest_first.push_back(at);
        }
        std::vector<Entry*> order;
        for (Entry* entry : entries) {
            if (!placed[entry]) order.push_back(entry);
        }
        order.insert(order.end(), newest_first.rbegin(), newest_first.rend());
        entries = std::move(order);
    }

    void link_by_use() {
        root.newest = root.oldest = nullptr;
        for (Entry* entry : entries) root.link_newest(*entry);
    }

    // The allocator is sound and has lost no more than a little.
    bool allocator_good() {
        constexpr size_t leak_divisor = 64;
        size_t known = used_bytes + slab().size_of(&root);
        return slab().check() && slab().used_bytes() <= known + zone.bytes() / leak_divisor;
    }
};

namespace {

// A value copied out of the zone.
struct SavedValue {
    SharedDict::Type type;
    std::string bytes;

    SharedDict::Value value() const {
        SharedDict::Value value{type, 0, bytes};
        if (type == SharedDict::number) std::memcpy(&value.number, bytes.data(), sizeof(double));
        if (type == SharedDict::boolean) value.number = bytes[0];
        return value;
    }
};

}  // namespace

// A private copy of an entry, to be stored again after the zone was wiped.
struct SharedDict::Saved {
    std::string key;
    std::vector<SavedValue> values;        // one, or a list's
    bool is_list;
    int64_t expires_ms;
    int flags;

    explicit Saved(Entry& entry)
        : key(entry.key()), is_list(entry.type == list), expires_ms(entry.expires_ms),
          flags(entry.flags) {
        if (!is_list) {
            values.push_back({Type(entry.type), std::string(entry.value(), entry.value_bytes)});
            return;
        }
        for (Node* at = entry.ends().first; at; at = at->next) {
            values.push_back({Type(at->type), std::string(at->data, at->bytes)});
        }
    }
};

void SharedDict::restore(const Saved& saved) {
    bool evicted = false;
    if (!saved.is_list) {
        store_new(saved.key, hash_of(saved.key), saved.values[0].value(), saved.expires_ms,
                  saved.flags, true, evicted);
        return;
    }
    Status status;
    Entry* entry = list_for_push(saved.key, status);
    if (!entry) return;
    entry->expires_ms = saved.expires_ms;
    for (const SavedValue& value : saved.values) append(*entry, value.value(), End::right);
}

// Empties the zone and stores everything again.
void SharedDict::rebuild(core::ShmZone& zone, const std::vector<Entry*>& entries) {
    std::vector<Saved> saved;
    for (Entry* entry : entries) saved.emplace_back(*entry);
    zone.wipe();
    if (!make_root(zone)) return;
    SharedDict dict;
    dict.zone_ = std::shared_ptr<core::ShmZone>(&zone, [](core::ShmZone*) {});
    for (const Saved& copy : saved) dict.restore(copy);
}

void SharedDict::repair(core::ShmZone& zone) {
    Root* root = zone.root<Root>();
    if (!root || !root->buckets) {
        zone.wipe();
        make_root(zone);
        return;
    }
    Repair work{zone, *root, {}, 0};
    for (size_t n = 0; n <= root->mask; n++) work.collect_chain(root->buckets[n]);
    work.sort_by_use();
    work.link_by_use();
    bool good = work.allocator_good();
    LOG(core::process_log(), alert, 0,
        "a process died while it changed shared dict \"%s\": %zu keys kept%s",
        zone.name().c_str(), work.entries.size(), good ? "" : ", memory rebuilt");
    if (!good) rebuild(zone, work.entries);
}

}  // namespace lua
