// The memory in which workers count: rows of counters with their texts, in a mapping that all
// processes of a server share. Used by server/metrics.cpp alone.
//
// Rows are only ever added. A worker takes a place and room by atomic additions, writes the row and
// enters it last: no locks, and one that is killed meanwhile leaves a place that nobody looks at. A
// row belongs to a slot; only the worker in that slot writes it. While it is rewritten for other
// texts its version is odd.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/histogram.h"
#include "core/slice.h"

namespace server {

struct MetricRow {
    uint32_t bytes;                      // in all
    std::atomic<uint32_t> version;
    uint16_t table, slot, values;
    std::atomic<uint16_t> key_bytes;
    // Values, then the key: each text with a NUL behind it.

    core::Counter* counters() { return reinterpret_cast<core::Counter*>(this + 1); }
    char* key() { return reinterpret_cast<char*>(counters() + values); }
    size_t key_room() const {
        return bytes - sizeof(MetricRow) - values * sizeof(core::Counter);
    }
    core::Slice key_text() { return {key(), key_bytes.load(std::memory_order_relaxed)}; }
    // For another key, which fits; values begin at 0.
    void rewrite(core::Slice key_text);
};

class MetricMemory {
  public:
    static constexpr size_t row_align = 64;
    static constexpr uint32_t rows_max = 128 * 1024;
    static constexpr size_t bytes_max = 64 << 20;        // pages never touched cost nothing

    static MetricMemory* create();                       // null: errno

    // A row with its values 0. Null when there is no room.
    MetricRow* add(uint16_t table, uint16_t slot, uint16_t values, core::Slice key);

    // visit(MetricRow&)
    template <class Visit>
    void each(Visit visit) {
        uint32_t count = rows_.load(std::memory_order_acquire);
        for (uint32_t i = 0; i < count && i < rows_max; ++i) {
            uint32_t at = offsets_[i].load(std::memory_order_acquire);
            if (at) visit(*row_at(at));
        }
    }

  private:
    MetricRow* row_at(uint32_t at) {
        return reinterpret_cast<MetricRow*>(reinterpret_cast<char*>(this) + at * row_align);
    }

    std::atomic<uint32_t> rows_{0};
    std::atomic<uint64_t> used_{0};                      // bytes, this object included
    std::atomic<uint32_t> offsets_[rows_max];            // in units of row_align; 0: no row
};

}  // namespace server
