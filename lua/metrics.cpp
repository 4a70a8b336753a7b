// Metrics of the Lua machine as a whole: memory, threads, handler files, how long handlers take.
// Timers, shared dictionaries and socket pools are counted beside their code.
#include "lua/metrics.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

#include "core/clock.h"
#include "core/ticks.h"
#include "lua/handlers.h"
#include "lua/thread.h"
#include "lua/vm.h"
#include "server/metrics.h"

namespace lua {
namespace {

using server::MetricRows;
using server::MetricTable;
using Column = server::MetricColumn;

// ---- memory, by worker ----

constexpr Column memory_columns[] = {
    {"worker", Column::label},
    {"memory_bytes", Column::gauge, "resty_lua_memory_bytes",
     "Memory that the worker's Lua machine uses."},
};
void publish_memory(const MetricTable& table) {
    LuaVm* vm = LuaVm::current();
    if (!vm || !table.own) return;
    int64_t kilobytes = lua_gc(vm->L, LUA_GCCOUNT, 0);
    core::set(table.own[0], kilobytes * 1024 + lua_gc(vm->L, LUA_GCCOUNTB, 0));
}
constinit const MetricTable memory{
    .name = "lua_memory", .columns = memory_columns, .by_worker = true, .publish = publish_memory};
REGISTER_METRICS(memory);

// ---- threads ----

constexpr const char* threads_metric = "resty_lua_threads";
constexpr Column thread_columns[] = {
    {"handlers", Column::gauge, threads_metric, "Lua threads that run or wait, by kind.",
     "kind=\"handler\""},
    {"light", Column::gauge, threads_metric, nullptr, "kind=\"light\""},
    {"coroutines", Column::gauge, threads_metric, nullptr, "kind=\"coroutine\""},
};
void publish_threads(const MetricTable& table) {
    if (!table.own) return;
    core::set(table.own[0], live_threads[LuaThread::entry]);
    core::set(table.own[1], live_threads[LuaThread::light]);
    core::set(table.own[2], live_threads[LuaThread::coroutine]);
}
constinit const MetricTable threads{
    .name = "lua_threads", .columns = thread_columns, .publish = publish_threads};
REGISTER_METRICS(threads);

// ---- handlers, by phase ----

constexpr Column phase_columns[] = {
    {"phase", Column::label},
    {"duration_seconds", Column::histogram, "resty_lua_phase_duration_seconds",
     "From the start of a Lua handler to its end, what it waited for included."},
};
// This worker's rows, by the bit of the phase; made when a handler of the phase has ended.
core::Counter* phase_rows[32] = {};
void forget_old_rows(const MetricTable&) {
    static uint32_t epoch = 0;
    if (epoch == server::metrics_epoch) return;
    epoch = server::metrics_epoch;
    std::fill(std::begin(phase_rows), std::end(phase_rows), nullptr);
}
constinit const MetricTable phases{
    .name = "lua_phases", .columns = phase_columns, .publish = forget_old_rows};
REGISTER_METRICS(phases);

// "content" of "content_by_lua*", "timer" of "ngx.timer".
std::string phase_label(LuaPhase phase) {
    std::string name = context_name(phase);
    if (name.starts_with("ngx.")) name.erase(0, 4);
    return name.substr(0, name.find("_by_lua"));
}

[[gnu::cold, gnu::noinline]] core::Counter* make_row(LuaPhase phase) {
    return server::own_row(phases, {phase_label(phase)});
}

// ---- files of lua_handlers ----

constexpr Column file_columns[] = {
    {"prefix", Column::label},
    {"file", Column::label},
    {"version", Column::gauge, "resty_handler_file_version",
     "How many versions of the file this worker has loaded."},
    {"modified_seconds", Column::gauge, "resty_handler_file_modified_timestamp_seconds",
     "When the newest version on disk was changed, seconds since 1970.", nullptr,
     Column::milliseconds},
    {"loaded_seconds", Column::gauge, "resty_handler_file_loaded_timestamp_seconds",
     "When the version that is served was loaded, seconds since 1970.", nullptr,
     Column::milliseconds},
    {"failed", Column::gauge, "resty_handler_file_failed",
     "1 when the newest version on disk has an error: an earlier one is served, or none."},
    {"error", Column::text},
    {"error_line", Column::gauge},
    {"error_seconds", Column::gauge, nullptr, nullptr, nullptr, Column::milliseconds},
};
int64_t or_absent(int64_t value) { return value ? value : MetricRows::absent; }
void collect_files(const MetricTable&, MetricRows& to) {
    for_each_handler_file([&](const HandlerFileInfo& file) {
        to.add({file.prefix, file.path, file.error},
               {int64_t(file.version), or_absent(file.modified_ms), or_absent(file.loaded_ms),
                !file.error.empty(), or_absent(file.line), or_absent(file.error_ms)});
    });
}
constinit const MetricTable handler_files{
    .name = "handler_files", .columns = file_columns, .collect = collect_files};
REGISTER_METRICS(handler_files);

}  // namespace

void begin_measuring(LuaTask& task) { task.started = core::Ticks::now(); }

void end_measuring(LuaTask& task) {
    uint64_t ns = core::Ticks::ns_since(std::exchange(task.started, 0));
    // No task is of the phase without a bit, init.
    core::Counter*& row = phase_rows[__builtin_ctz(uint32_t(task.phase))];
    if (!row) [[unlikely]] row = make_row(task.phase);
    if (row) core::histogram::observe(row, ns);
}

}  // namespace lua
