// Metrics: rows of workers and their sums, what stays of a worker that died, both formats.
#include "server/metrics.h"

#include <gtest/gtest.h>

#include "server/metric_rows.h"
#include "server/metrics_page.h"
#include "server/status.h"

namespace {

using core::Slice;
using server::MetricColumn;
using server::MetricRows;
using server::MetricTable;

constexpr MetricColumn columns[] = {
    {"name", MetricColumn::label},
    {"note", MetricColumn::text},
    {"hits", MetricColumn::counter, "test_hits_total", "Hits\\ and\nmisses."},
    {"open", MetricColumn::gauge, "test_open", "What is open.", "kind=\"a\""},
    {"shut", MetricColumn::gauge, "test_open", nullptr, "kind=\"b\""},
    {"time", MetricColumn::counter, "test_seconds_total", "Time.", nullptr,
     MetricColumn::milliseconds},
    {"took", MetricColumn::histogram, "test_took_seconds", "How long."},
};
constinit const MetricTable named{.name = "test_named", .columns = columns};
REGISTER_METRICS(named);

constexpr MetricColumn single_columns[] = {
    {"count", MetricColumn::counter, "test_single_total", "Alone."},
    {"level", MetricColumn::gauge, "test_level", "Now."},
};
constinit const MetricTable single{.name = "test_single", .columns = single_columns};
REGISTER_METRICS(single);

constexpr MetricColumn worker_columns[] = {
    {"worker", MetricColumn::label},
    {"number", MetricColumn::gauge, "test_number", "Of a worker."},
};
constinit const MetricTable by_worker{
    .name = "test_workers", .columns = worker_columns, .by_worker = true};
REGISTER_METRICS(by_worker);

// Slots that nobody else in this process uses.
constexpr int slot_a = 901, slot_b = 902;

struct Counting : testing::Test {
    void TearDown() override {
        server::end_metrics();
        for (int slot : {slot_a, slot_b}) server::clear_slot(slot);
    }
    static MetricRows rows_of(const MetricTable& table) { return server::collect_rows(table); }
    static int64_t value_of(const MetricTable& table, Slice name, size_t value) {
        MetricRows rows = rows_of(table);
        for (size_t row = 0; row < rows.count(); ++row) {
            if (rows.text(row, 0) == name) return rows.values(row)[value];
        }
        return -1;
    }
};

TEST_F(Counting, without_a_worker_nothing_is_counted) {
    server::count(single, 0);
    EXPECT_EQ(server::own_row(named, {"x"}), nullptr);
    EXPECT_EQ(single.own, nullptr);
}

TEST_F(Counting, rows_are_summed_over_workers_and_outlive_them) {
    server::begin_metrics(slot_a);
    core::add(server::own_row(named, {"sum", "n"})[0], 3);
    core::add(server::own_row(named, {"sum", "n"})[0], 2);
    core::set(server::own_row(named, {"sum", "n"})[1], 7);
    server::count(single, 0, 10);
    server::end_metrics();
    server::begin_metrics(slot_b);
    core::add(server::own_row(named, {"sum", "n"})[0], 100);
    server::count(single, 0, 5);
    EXPECT_EQ(value_of(named, "sum", 0), 105);
    EXPECT_EQ(value_of(named, "sum", 1), 7);
    EXPECT_EQ(rows_of(single).values(0)[0], 15);
    // The first worker is gone: its counts stay, what it held does not.
    server::clear_slot(slot_a);
    EXPECT_EQ(value_of(named, "sum", 0), 105);
    EXPECT_EQ(value_of(named, "sum", 1), 0);
    // One in the same slot goes on.
    server::end_metrics();
    server::begin_metrics(slot_a);
    core::add(server::own_row(named, {"sum", "n"})[0]);
    EXPECT_EQ(value_of(named, "sum", 0), 106);
}

TEST_F(Counting, rows_given_up_stay_until_they_are_needed) {
    server::begin_metrics(slot_a);
    core::Counter* row = server::own_row(named, {"gone", ""});
    core::add(row[0], 4);
    core::set(row[1], 9);
    server::give_up_row(named, row);
    EXPECT_EQ(value_of(named, "gone", 0), 4);
    EXPECT_EQ(value_of(named, "gone", 1), 0);
    EXPECT_EQ(server::own_row(named, {"gone", ""}), row);
    server::give_up_row(named, row);
    // Very many that come and go share their memory after a while.
    size_t before = rows_of(named).count();
    for (int i = 0; i < 5000; ++i) {
        core::Counter* next = server::own_row(named, {"passing " + std::to_string(i), ""});
        ASSERT_NE(next, nullptr);
        EXPECT_EQ(core::get(next[0]), 0);
        core::add(next[0]);
        server::give_up_row(named, next);
    }
    EXPECT_LT(rows_of(named).count(), before + 1000);
    EXPECT_EQ(value_of(named, "passing 4999", 0), 1);
}

TEST_F(Counting, only_workers_alive_are_told_apart) {
    server::begin_metrics(slot_a);
    core::set(by_worker.own[0], 5);
    EXPECT_EQ(value_of(by_worker, std::to_string(slot_a), 0), -1);
    server::shared_status().workers[slot_a].pid = 12345;
    EXPECT_EQ(value_of(by_worker, std::to_string(slot_a), 0), 5);
    server::clear_slot(slot_a);
    EXPECT_EQ(value_of(by_worker, std::to_string(slot_a), 0), -1);
}

TEST_F(Counting, long_names_are_cut) {
    server::begin_metrics(slot_a);
    std::string name(100'000, 'x');
    ASSERT_NE(server::own_row(named, {name, ""}), nullptr);
    EXPECT_EQ(value_of(named, std::string(512, 'x'), 0), 0);
}

std::string page_of(server::MetricsPage::Format format, size_t series) {
    // Without those whose rows need a configuration.
    static const server::MetricsPage::Tables tables{&named, &single, &by_worker};
    server::MetricsPage page(format, tables);
    std::string text;
    int pieces = 1;
    while (page.write(text, series)) ++pieces;
    EXPECT_GT(pieces, series == 1 ? 10 : 0);
    return text;
}

TEST_F(Counting, text_format) {
    server::begin_metrics(slot_a);
    core::Counter* row = server::own_row(named, {"text \"\\\n\xff", "n"});
    core::add(row[0], 2);
    core::set(row[2], -1);
    core::add(row[3], 1500);
    core::histogram::observe(row + 4, 2'000'000);
    std::string text = page_of(server::MetricsPage::Format::prometheus, 100000);
    const std::string labels = "name=\"text \\\"\\\\\\n\xEF\xBF\xBD\"";
    for (const std::string& expected : {
             std::string("# HELP test_hits_total Hits\\\\ and\\nmisses.\n"
                         "# TYPE test_hits_total counter\n"),
             "test_hits_total{" + labels + "} 2\n",
             "test_open{" + labels + ",kind=\"b\"} -1\n",
             "test_seconds_total{" + labels + "} 1.5\n",
             "test_took_seconds_bucket{" + labels + ",le=\"0.001\"} 0\n",
             "test_took_seconds_bucket{" + labels + ",le=\"0.0025\"} 1\n",
             "test_took_seconds_bucket{" + labels + ",le=\"+Inf\"} 1\n",
             "test_took_seconds_sum{" + labels + "} 0.002\n",
             "test_took_seconds_count{" + labels + "} 1\n",
         }) {
        EXPECT_NE(text.find(expected), std::string::npos) << expected;
    }
    EXPECT_EQ(text.find("# TYPE test_open "), text.rfind("# TYPE test_open "));
    EXPECT_EQ(page_of(server::MetricsPage::Format::prometheus, 1).size(), text.size());
}

TEST_F(Counting, json_format) {
    server::begin_metrics(slot_b);
    core::Counter* row = server::own_row(named, {"json", "a note"});
    core::add(row[3], 250);
    core::histogram::observe(row + 4, 20'000'000'000);
    std::string text = page_of(server::MetricsPage::Format::json, 100000);
    EXPECT_NE(text.find(R"({"name":"json","note":"a note","hits":0,"open":0,"shut":0,"time":0.25,)"
                        R"("took":{"buckets":{"0.00001":0,)"), std::string::npos);
    EXPECT_NE(text.find(R"("10":0,"+Inf":1},"count":1,"sum":20}})"), std::string::npos);
    EXPECT_NE(text.find(R"("test_single":{"count":)"), std::string::npos);
    EXPECT_TRUE(text.starts_with("{\"") && text.ends_with("}"));
    EXPECT_EQ(page_of(server::MetricsPage::Format::json, 1).size(), text.size());
}

TEST(MetricMemory, is_limited) {
    auto* memory = server::MetricMemory::create();
    ASSERT_NE(memory, nullptr);
    size_t made = 0;
    while (memory->add(1, 1, 60000, "key")) ++made;
    EXPECT_GT(made, 50u);
    size_t seen = 0;
    memory->each([&](server::MetricRow& row) {
        EXPECT_EQ(row.key_text(), "key");
        ++seen;
    });
    EXPECT_EQ(seen, made);
}

}  // namespace
