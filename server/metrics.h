// Metrics: what the status endpoint reports. Whoever counts something declares a table in its own
// file, registers it, and bumps counters in rows of its own:
//
//   constexpr MetricColumn columns[] = {
//       {"passed", MetricColumn::counter, "demo_passed_total", "Requests that passed."},
//   };
//   constinit const MetricTable table{.name = "demo", .columns = columns};
//   REGISTER_METRICS(table);
//   …
//   count(table, 0);
//
// Each worker has its own rows, in memory shared by all processes: no locks, plain stores; who
// reads adds them up. They outlive their worker, and reloads. Without a resty_status location
// nothing is counted: tables have no rows then.
//
// Modules never see each other through this; who reads is server/metrics_page.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "core/histogram.h"
#include "core/slice.h"

namespace server {

struct MetricColumn {
    enum Kind : uint8_t {
        label,       // text that tells rows apart
        text,        // further text: in JSON only
        counter,     // only goes up; kept when its worker is gone
        gauge,       // of something that is now; gone with its worker
        histogram,   // core::histogram::counters values
    };
    // What one of the value is. JSON and the text format show seconds and bytes.
    enum Unit : uint8_t { one, nanoseconds, microseconds, milliseconds };

    const char* key;                 // in JSON, and a label's name; null: not in JSON
    Kind kind = counter;
    const char* metric = nullptr;    // its name in the text format; null: not there
    const char* help = nullptr;      // columns of the same metric stand together, the first has it
    const char* labels = nullptr;    // of its own: `state="active"`
    Unit unit = one;
};

class MetricRows;

struct MetricTable {
    const char* name;                // its key in JSON; null: not shown, others read it
    std::span<const MetricColumn> columns;
    // Rows of the workers alive, each with its slot as the first label, rather than their sums.
    bool by_worker = false;
    // In the worker that answers: makes the rows. Null: they are the workers' own.
    void (*collect)(const MetricTable& table, MetricRows& to) = nullptr;
    // In each worker, once a second and before it answers: sets gauges.
    void (*publish)(const MetricTable& table) = nullptr;

    // Set by registration.
    mutable uint16_t index = 0;
    mutable uint16_t texts = 0;      // label and text columns
    mutable uint16_t labels = 0;
    mutable uint16_t values = 0;     // counters that a row has
    mutable core::Counter* own = nullptr;    // this worker's row of a table without labels
};

struct MetricRegistration {
    explicit MetricRegistration(const MetricTable& table);
};
#define REGISTER_METRICS(table) \
    static const ::server::MetricRegistration register_metrics_##table { table }

// All of them, sorted by name.
const std::vector<const MetricTable*>& metric_tables();

// ---- counting ----

// In a table without labels: the value with this index (a histogram takes several).
inline void count(const MetricTable& table, size_t value, int64_t by = 1) {
    if (table.own) core::add(table.own[value], by);
}
inline void observe(const MetricTable& table, size_t value, uint64_t ns) {
    if (table.own) core::histogram::observe(table.own + value, ns);
}
// Is anything counted in this process?
inline bool metrics_on = false;
// Changes when rows that were kept are of no more use: a process that is master and worker at once
// has loaded its configuration anew.
inline uint32_t metrics_epoch = 0;

// This worker's row with these texts, in the order of the table's label and text columns; made when
// missing. Null when nothing is counted, or there is no room for more rows.
core::Counter* own_row(const MetricTable& table, std::initializer_list<core::Slice> texts);
// Nobody counts in it any more. It is shown until its memory is needed, and found again.
void give_up_row(const MetricTable& table, core::Counter* row);

// ---- reading ----

// The rows of one table at one moment.
class MetricRows {
  public:
    static constexpr int64_t absent = INT64_MIN;     // a value that a row does not have

    explicit MetricRows(const MetricTable& of) : table(&of) {}
    const MetricTable* table;

    // Both in the order of the columns; missing values are absent.
    void add(std::span<const core::Slice> texts, std::span<const int64_t> values);
    void add(std::initializer_list<core::Slice> texts, std::initializer_list<int64_t> values) {
        add({texts.begin(), texts.size()}, {values.begin(), values.size()});
    }

    size_t count() const { return count_; }
    core::Slice text(size_t row, size_t which) const;
    const int64_t* values(size_t row) const { return values_.data() + row * table->values; }

  private:
    std::string pool_;
    std::vector<uint32_t> ends_;       // of the texts, in the pool
    std::vector<int64_t> values_;
    size_t count_ = 0;
};

// What workers have counted in a table, summed over them (or one by one: by_worker).
void read_rows(const MetricTable& table, MetricRows& to);
// All that there is to say of a table now.
MetricRows collect_rows(const MetricTable& table);
void publish_metrics();

// ---- processes ----

// In the master, before workers are forked: makes the memory, unless there is one.
bool open_metrics();
// In a worker: begins to count, in the rows of this slot.
void begin_metrics(int slot);
void end_metrics();
// A worker that used this slot is gone: so is what its gauges showed.
void clear_metric_gauges(int slot);

}  // namespace server
