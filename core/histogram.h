// Counters and histograms in memory that one process writes and others read: plain stores, neither
// locks nor locked instructions. Latencies fall into fixed buckets, the same everywhere, so that
// those of several workers and servers can be added up.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace core {

using Counter = std::atomic<int64_t>;

// Nobody else writes it.
inline void add(Counter& counter, int64_t by = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}
inline void set(Counter& counter, int64_t to) { counter.store(to, std::memory_order_relaxed); }
inline int64_t get(const Counter& counter) { return counter.load(std::memory_order_relaxed); }

namespace histogram {

// Upper bounds of the buckets, in nanoseconds: 10 µs to 10 s; one more bucket takes the rest.
constexpr uint64_t bounds_ns[] = {
    10'000,      50'000,        100'000,       250'000,       500'000,       1'000'000,
    2'500'000,   5'000'000,     10'000'000,    25'000'000,    50'000'000,    100'000'000,
    250'000'000, 500'000'000,   1'000'000'000, 2'500'000'000, 5'000'000'000, 10'000'000'000,
    UINT64_MAX,
};
constexpr size_t bounds = sizeof bounds_ns / sizeof *bounds_ns - 1;
constexpr size_t buckets = bounds + 1;
// A histogram is so many counters in a row: its buckets, each with what fell into it alone, then
// the sum in nanoseconds.
constexpr size_t counters = buckets + 1;

// By the number of a value's leading zeros: the first bucket that such values may fall into.
struct First {
    uint8_t bucket[64];
};
consteval First make_first() {
    First first{};
    for (unsigned zeros = 0; zeros < 64; ++zeros) {
        uint64_t least = 1ull << (63 - zeros);
        uint8_t at = 0;
        while (bounds_ns[at] < least) ++at;
        first.bucket[zeros] = at;
    }
    return first;
}
inline constexpr First first = make_first();

inline size_t bucket_of(uint64_t ns) {
    size_t at = first.bucket[__builtin_clzll(ns | 1)];
    while (ns > bounds_ns[at]) ++at;                     // once or not at all
    return at;
}

inline void observe(Counter* histogram, uint64_t ns) {
    add(histogram[bucket_of(ns)]);
    add(histogram[buckets], int64_t(ns));
}

}  // namespace histogram

}  // namespace core
