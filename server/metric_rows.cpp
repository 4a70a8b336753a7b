// Rows of counters in shared memory: see the header.
#include "server/metric_rows.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

namespace server {

namespace {

constexpr size_t aligned(size_t bytes) {
    return (bytes + MetricMemory::row_align - 1) / MetricMemory::row_align *
           MetricMemory::row_align;
}

// What rows are made with for longer keys that they may be given later.
constexpr size_t key_room_least = 64;

}  // namespace

MetricMemory* MetricMemory::create() {
    void* memory = ::mmap(nullptr, bytes_max, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    // Fresh pages are zero, which is what every counter begins as: nothing else is touched.
    auto* made = static_cast<MetricMemory*>(memory);
    new (&made->rows_) std::atomic<uint32_t>(0);
    new (&made->used_) std::atomic<uint64_t>(aligned(sizeof(MetricMemory)));
    return made;
}

MetricRow* MetricMemory::add(uint16_t table, uint16_t slot, uint16_t values, core::Slice key) {
    size_t bytes = aligned(sizeof(MetricRow) + values * sizeof(core::Counter) +
                           (key.empty() ? 0 : std::max(key.size(), key_room_least)));
    // Looked at first, so that requests which cannot be served do not use numbers up.
    if (rows_.load() >= rows_max || used_.load() + bytes > bytes_max) return nullptr;
    uint32_t place = rows_.fetch_add(1);
    uint64_t at = used_.fetch_add(bytes);
    if (place >= rows_max || at + bytes > bytes_max) return nullptr;
    MetricRow* row = new (row_at(uint32_t(at / row_align))) MetricRow{};
    row->bytes = uint32_t(bytes);
    row->table = table;
    row->slot = slot;
    row->values = values;
    for (size_t i = 0; i < values; ++i) new (row->counters() + i) core::Counter(0);
    std::memcpy(row->key(), key.data(), key.size());
    row->key_bytes.store(uint16_t(key.size()), std::memory_order_relaxed);
    offsets_[place].store(uint32_t(at / row_align), std::memory_order_release);
    return row;
}

void MetricRow::rewrite(core::Slice key_text) {
    uint32_t before = version.load(std::memory_order_relaxed) | 1;    // killed in here: odd already
    version.store(before, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    for (size_t i = 0; i < values; ++i) core::set(counters()[i], 0);
    std::memcpy(key(), key_text.data(), key_text.size());
    key_bytes.store(uint16_t(key_text.size()), std::memory_order_relaxed);
    version.store(before + 1, std::memory_order_release);
}

}  // namespace server
