// Makes a shared dictionary whole again after a process was killed inside its lock. Every entry
// that was complete is kept; one that was being changed in place goes.
#include <algorithm>
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
    bool dropped = false;                  // an entry that nobody has freed

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
                *link = entry->chain;      // its memory is found by rebuild_allocator()
                dropped = true;
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
        root.keys = int64_t(entries.size());
    }

    // The allocator is sound and has lost no more than a little.
    bool allocator_good() {
        constexpr size_t leak_divisor = 64;
        size_t known = used_bytes + slab().size_of(&root);
        return slab().check() && slab().used_bytes() <= known + zone.bytes() / leak_divisor;
    }

    // Tells the allocator what there is. Entries stay where they are: this process may be killed
    // as well, and the next one does it all again.
    void rebuild_allocator() {
        std::vector<const void*> live{&root};
        for (Entry* entry : entries) {
            live.push_back(entry);
            if (entry->type != list) continue;
            for (Node* at = entry->ends().first; at; at = at->next) live.push_back(at);
        }
        std::sort(live.begin(), live.end());
        live.erase(std::unique(live.begin(), live.end()), live.end());
        slab().rebuild(live);
    }
};

void SharedDict::repair(core::ShmZone& zone) {
    Root* root = zone.root<Root>();
    if (!root || !root->buckets || !zone.slab().size_of(root)) {
        zone.wipe();
        make_root(zone);
        return;
    }
    Repair work{zone, *root, {}, 0};
    for (size_t n = 0; n <= root->mask; n++) work.collect_chain(root->buckets[n]);
    work.sort_by_use();
    work.link_by_use();
    bool good = !work.dropped && work.allocator_good();
    LOG(core::process_log(), alert, 0,
        "a process died while it changed shared dict \"%s\": %zu keys kept%s",
        zone.name().c_str(), work.entries.size(), good ? "" : ", memory rebuilt");
    if (!good) work.rebuild_allocator();
}

}  // namespace lua
