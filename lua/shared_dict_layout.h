// What a shared dictionary's zone contains. Included by shared_dict.cpp and its repair.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "lua/shared_dict.h"

namespace lua {

// The stores before it happen before the stores behind it, as a process that finds the memory after
// this one was killed sees them: a kill falls between two instructions, so the compiler's order is
// all that has to be kept.
inline void in_order() { std::atomic_signal_fence(std::memory_order_seq_cst); }

// A value of a list.
struct SharedDict::Node {
    Node* next;
    Node* prev;
    uint32_t bytes;
    uint8_t type;
    char data[3];                    // and on
};

struct SharedDict::ListEnds {
    Node* first = nullptr;
    Node* last = nullptr;
    uint32_t count = 0;

    // Walking from `first` by `next` finds a whole list at every moment.
    void link(Node& node, End end) {
        node.prev = end == End::left ? nullptr : last;
        node.next = end == End::left ? first : nullptr;
        in_order();
        (node.prev ? node.prev->next : first) = &node;
        in_order();
        (node.next ? node.next->prev : last) = &node;
    }
    void unlink(Node& node) {
        (node.prev ? node.prev->next : first) = node.next;
        in_order();
        (node.next ? node.next->prev : last) = node.prev;
    }
};

// A key with its value; a list has its ListEnds as value.
struct SharedDict::Entry {
    Entry* chain;                    // next of its bucket
    Entry* newer;
    Entry* older;
    int64_t expires_ms;              // wall clock; 0: never
    uint32_t hash;
    uint32_t value_bytes;
    int flags;
    uint16_t key_bytes;
    uint8_t type;
    uint8_t writing;                 // being changed in place: not to be trusted after a crash
    char data[8];                    // key, value, and on

    static size_t bytes_for(size_t key_bytes, size_t value_bytes) {
        return offsetof(Entry, data) + key_bytes + value_bytes;
    }
    // A list's ends, aligned behind the key.
    static size_t list_bytes(size_t key_bytes) {
        return aligned(key_bytes) - key_bytes + sizeof(ListEnds);
    }
    static size_t aligned(size_t bytes) { return (bytes + 7) & ~size_t(7); }

    core::Slice key() const { return {data, key_bytes}; }
    char* value() { return data + key_bytes; }
    ListEnds& ends() { return *reinterpret_cast<ListEnds*>(data + aligned(key_bytes)); }
    bool expired(int64_t now_ms) const { return expires_ms && expires_ms <= now_ms; }
};

struct SharedDict::Root {
    Entry** buckets;
    uint32_t mask;
    Entry* newest;
    Entry* oldest;
    int64_t keys;                    // entries; those that have expired but lie there still too
    int64_t evicted, expired;        // entries that went to make room, or past their time
    int64_t refused;                 // values there was no room for

    void link_newest(Entry& entry) {
        entry.newer = nullptr;
        entry.older = newest;
        (newest ? newest->newer : oldest) = &entry;
        newest = &entry;
    }
    void unlink(Entry& entry) {
        (entry.newer ? entry.newer->older : newest) = entry.older;
        (entry.older ? entry.older->newer : oldest) = entry.newer;
    }
};

}  // namespace lua
