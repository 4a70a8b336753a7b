// Tables, a worker's own rows in them, and the sums over all workers.
#include "server/metrics.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unordered_map>

#include "core/log.h"
#include "core/ticks.h"
#include "server/metric_rows.h"
#include "server/status.h"

namespace server {

namespace {

// Rows of one table that a worker gave up: past so many the oldest are used again.
constexpr size_t given_up_max = 256;

// What a row's texts may come to; longer ones are cut.
constexpr size_t key_bytes_max = 4096;

struct Tables {
    std::vector<const MetricTable*> all;
    bool fixed = false;
};

Tables& registry() {
    static Tables& tables = *new Tables;
    return tables;
}

void fix(Tables& tables) {
    tables.fixed = true;
    auto name = [](const MetricTable* table) { return table->name ? table->name : ""; };
    std::stable_sort(tables.all.begin(), tables.all.end(),
                     [&](const MetricTable* a, const MetricTable* b) {
                         return std::strcmp(name(a), name(b)) < 0;
                     });
    for (size_t i = 0; i < tables.all.size(); ++i) {
        const MetricTable& table = *tables.all[i];
        table.index = uint16_t(i);
        table.texts = table.labels = table.values = 0;
        for (const MetricColumn& column : table.columns) {
            bool is_text = column.kind <= MetricColumn::text;
            table.texts += is_text;
            table.labels += column.kind == MetricColumn::label;
            if (!is_text) {
                table.values += column.kind == MetricColumn::histogram
                                    ? uint16_t(core::histogram::counters) : uint16_t(1);
            }
        }
    }
}

// ---- this worker's rows ----

struct OwnTable {
    std::unordered_map<std::string, MetricRow*> rows;
    std::vector<MetricRow*> given_up;        // oldest first; those found again are not among them
};

MetricMemory* memory = nullptr;
uint16_t own_slot = 0;

std::vector<OwnTable>& own_tables() {
    static auto& tables = *new std::vector<OwnTable>;
    return tables;
}

std::string key_of(std::initializer_list<core::Slice> texts) {
    std::string key;
    for (core::Slice text : texts) {
        key.append(text.data(), std::min(text.size(), key_bytes_max / 8));
        key += '\0';
    }
    return key;
}

// The oldest of those given up that has room for the key; null when there are few of them yet.
MetricRow* reuse(OwnTable& own, const std::string& key, bool in_need) {
    if (own.given_up.size() < given_up_max && !in_need) return nullptr;
    for (auto at = own.given_up.begin(); at != own.given_up.end(); ++at) {
        MetricRow* row = *at;
        if (row->key_room() < key.size()) continue;
        own.given_up.erase(at);
        own.rows.erase(std::string(row->key_text()));
        row->rewrite(key);
        return row;
    }
    return nullptr;
}

core::Counter* find_or_make(const MetricTable& table, std::string key) {
    OwnTable& own = own_tables()[table.index];
    if (auto found = own.rows.find(key); found != own.rows.end()) {
        std::erase(own.given_up, found->second);
        return found->second->counters();
    }
    MetricRow* row = reuse(own, key, false);
    if (!row) row = memory->add(table.index, own_slot, table.values, key);
    if (!row) row = reuse(own, key, true);
    if (!row) return nullptr;
    own.rows.emplace(std::move(key), row);
    return row->counters();
}

bool is_gauge(const MetricColumn& column) { return column.kind == MetricColumn::gauge; }

void clear_gauges(const MetricTable& table, MetricRow& row) {
    size_t value = 0;
    for (const MetricColumn& column : table.columns) {
        if (column.kind <= MetricColumn::text) continue;
        if (is_gauge(column)) core::set(row.counters()[value], 0);
        value += column.kind == MetricColumn::histogram ? core::histogram::counters : 1;
    }
}

// ---- sums ----

// One row's texts and values at one moment; false: it is being rewritten.
bool copy_row(MetricRow& row, std::string& key, std::vector<int64_t>& values) {
    uint32_t version = row.version.load(std::memory_order_acquire);
    if (version & 1) return false;
    values.resize(row.values);
    for (size_t i = 0; i < row.values; ++i) values[i] = core::get(row.counters()[i]);
    key.assign(row.key(), std::min<size_t>(row.key_bytes.load(std::memory_order_relaxed),
                                           row.key_room()));
    std::atomic_thread_fence(std::memory_order_acquire);
    return row.version.load(std::memory_order_relaxed) == version;
}

void split(core::Slice key, std::vector<core::Slice>& texts) {
    while (!key.empty()) {
        size_t end = key.find('\0');
        texts.push_back(key.substr(0, end));
        key.remove_prefix(end == core::Slice::npos ? key.size() : end + 1);
    }
}

void read_by_worker(const MetricTable& table, MetricRows& to) {
    std::string key;
    std::vector<int64_t> values;
    memory->each([&](MetricRow& row) {
        if (row.table != table.index || !shared_status().workers[row.slot].pid.load()) return;
        if (!copy_row(row, key, values)) return;
        std::string slot = std::to_string(row.slot);
        std::vector<core::Slice> texts{slot};
        split(key, texts);
        to.add(texts, values);
    });
}

}  // namespace

MetricRegistration::MetricRegistration(const MetricTable& table) {
    registry().all.push_back(&table);
}

const std::vector<const MetricTable*>& metric_tables() {
    Tables& tables = registry();
    if (!tables.fixed) fix(tables);
    return tables.all;
}

core::Counter* own_row(const MetricTable& table, std::initializer_list<core::Slice> texts) {
    if (!metrics_on) return nullptr;
    return find_or_make(table, key_of(texts));
}

void give_up_row(const MetricTable& table, core::Counter* row) {
    if (!row || !metrics_on) return;
    auto* given = reinterpret_cast<MetricRow*>(row) - 1;
    clear_gauges(table, *given);
    own_tables()[table.index].given_up.push_back(given);
}

bool open_metrics() {
    if (memory) return true;
    metric_tables();
    core::Ticks::calibrate();
    memory = MetricMemory::create();
    return memory != nullptr;
}

void begin_metrics(int slot) {
    if (!memory && !open_metrics()) {
        LOG(core::process_log(), alert, errno, "mmap() of the memory for metrics failed");
        return;
    }
    own_slot = uint16_t(slot);
    metrics_on = true;
    ++metrics_epoch;
    own_tables().assign(metric_tables().size(), {});
    clear_metric_gauges(slot);
    memory->each([](MetricRow& row) {
        if (row.slot != own_slot) return;
        OwnTable& own = own_tables()[row.table];
        if (row.version.load(std::memory_order_relaxed) & 1) row.rewrite({});
        own.rows.emplace(std::string(row.key_text()), &row);
        own.given_up.push_back(&row);
    });
    for (const MetricTable* table : metric_tables()) {
        bool single = !table->collect && table->texts == (table->by_worker ? 1 : 0);
        if (single) table->own = find_or_make(*table, {});
        // What is told of a worker is told of the one that is there.
        if (table->own && table->by_worker) {
            for (size_t i = 0; i < table->values; ++i) core::set(table->own[i], 0);
        }
    }
}

void end_metrics() {
    metrics_on = false;
    own_tables().clear();
    for (const MetricTable* table : metric_tables()) table->own = nullptr;
}

void clear_metric_gauges(int slot) {
    if (!memory) return;
    memory->each([&](MetricRow& row) {
        if (row.slot == slot) clear_gauges(*metric_tables()[row.table], row);
    });
}

void read_rows(const MetricTable& table, MetricRows& to) {
    if (!memory) return;
    if (table.by_worker) return read_by_worker(table, to);
    std::unordered_map<std::string, std::vector<int64_t>> sums;
    std::vector<const std::string*> order;
    std::string key;
    std::vector<int64_t> values;
    memory->each([&](MetricRow& row) {
        if (row.table != table.index || !copy_row(row, key, values)) return;
        if (key.empty() && table.texts) return;              // its worker died as it was rewritten
        auto [at, is_new] = sums.try_emplace(key, values);
        if (is_new) {
            order.push_back(&at->first);
            return;
        }
        for (size_t i = 0; i < values.size(); ++i) at->second[i] += values[i];
    });
    std::vector<core::Slice> texts;
    for (const std::string* each : order) {
        texts.clear();
        split(*each, texts);
        to.add(texts, sums[*each]);
    }
}

MetricRows collect_rows(const MetricTable& table) {
    MetricRows rows(table);
    if (table.collect) table.collect(table, rows);
    else read_rows(table, rows);
    return rows;
}

void publish_metrics() {
    if (!metrics_on) return;
    for (const MetricTable* table : metric_tables()) {
        if (table->publish) table->publish(*table);
    }
}

void MetricRows::add(std::span<const core::Slice> texts, std::span<const int64_t> values) {
    for (size_t i = 0; i < table->texts; ++i) {
        if (i < texts.size()) pool_ += texts[i];
        ends_.push_back(uint32_t(pool_.size()));
    }
    for (size_t i = 0; i < table->values; ++i) {
        values_.push_back(i < values.size() ? values[i] : absent);
    }
    ++count_;
}

core::Slice MetricRows::text(size_t row, size_t which) const {
    size_t at = row * table->texts + which;
    uint32_t begin = at ? ends_[at - 1] : 0;
    return core::Slice(pool_).substr(begin, ends_[at] - begin);
}

}  // namespace server
