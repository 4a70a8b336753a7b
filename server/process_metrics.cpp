// Metrics of the processes: the build, connections, workers, reloads, the loop, the error log.
// Read by the status endpoint; master.cpp notes reloads.
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>

#include "core/clock.h"
#include "core/log.h"
#include "core/reactor.h"
#include "core/resolver.h"
#include "server/features.h"
#include "server/metrics.h"
#include "server/status.h"
#include "server/worker.h"

namespace server {

namespace {

using Column = MetricColumn;

// ---- the build ----

constexpr Column build_columns[] = {
    {"version", Column::label},
    {"nginx_version", Column::label},
    {"openresty_version", Column::label},
    {nullptr, Column::gauge, "resty_build_info", "What this server is; always 1."},
};
void collect_build(const MetricTable&, MetricRows& to) {
    to.add({RESTY_VERSION, nginx_version, openresty_version}, {1});
}
constinit const MetricTable build{
    .name = "build", .columns = build_columns, .collect = collect_build};
REGISTER_METRICS(build);

// ---- connections ----

constexpr Column connection_columns[] = {
    {"accepted", Column::counter, "resty_connections_accepted_total",
     "Connections taken from clients."},
    {"handled", Column::counter, "resty_connections_handled_total",
     "Of these, the ones there was room for."},
    {"active", Column::gauge, "resty_connections_active", "Open connections of clients."},
    {"reading", Column::gauge, "resty_connections", "Open connections of clients by state.",
     "state=\"reading\""},
    {"writing", Column::gauge, "resty_connections", nullptr, "state=\"writing\""},
    {"waiting", Column::gauge, "resty_connections", nullptr, "state=\"waiting\""},
    {"requests", Column::counter},
};
void collect_connections(const MetricTable&, MetricRows& to) {
    StatusTotals now = status_totals();
    to.add({}, {int64_t(now.accepted), int64_t(now.handled), now.active, now.reading, now.writing,
                now.waiting, int64_t(now.requests)});
}
constinit const MetricTable connections{
    .name = "connections", .columns = connection_columns, .collect = collect_connections};
REGISTER_METRICS(connections);

// ---- workers ----

enum : size_t { pid, number, generation, started, seen, draining, resident, user, system, requests,
                open_connections };

constexpr Column worker_columns[] = {
    {"worker", Column::label},
    {"pid", Column::gauge, "resty_worker_pid", "Process id of the worker in this slot."},
    {"number", Column::gauge},
    {"generation", Column::gauge, "resty_worker_generation",
     "Which configuration the worker began with: 1 for the first since the start."},
    {"start_time_seconds", Column::gauge, "resty_worker_start_time_seconds",
     "When the worker started, seconds since 1970.", nullptr, Column::milliseconds},
    {"last_seen_seconds", Column::gauge, "resty_worker_last_seen_timestamp_seconds",
     "When its loop last came round to saying so (each second), seconds since 1970.", nullptr,
     Column::milliseconds},
    {"draining", Column::gauge, "resty_worker_draining",
     "1 while the worker only ends what it has begun."},
    {"resident_bytes", Column::gauge, "resty_worker_resident_memory_bytes",
     "Memory of the worker that is in RAM."},
    {"cpu_user_seconds", Column::counter, "resty_worker_cpu_seconds_total",
     "Processor time of the worker.", "mode=\"user\"", Column::microseconds},
    {"cpu_system_seconds", Column::counter, "resty_worker_cpu_seconds_total", nullptr,
     "mode=\"system\"", Column::microseconds},
    {"requests", Column::counter, "resty_worker_requests_total",
     "Requests that the workers in this slot have begun."},
    {"connections", Column::gauge, "resty_worker_connections",
     "Open connections of clients in the worker."},
};

int64_t resident_bytes() {
#ifdef __linux__
    FILE* file = std::fopen("/proc/self/statm", "re");
    if (!file) return 0;
    long long total = 0, pages = 0;
    int found = std::fscanf(file, "%lld %lld", &total, &pages);
    std::fclose(file);
    return found == 2 ? int64_t(pages) * ::sysconf(_SC_PAGESIZE) : 0;
#else
    rusage usage;
    ::getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss * 1024;
#endif
}

int64_t microseconds(const timeval& time) {
    return int64_t(time.tv_sec) * 1'000'000 + int64_t(time.tv_usec);
}

void publish_worker(const MetricTable& table) {
    Worker* worker = Worker::current();
    core::Counter* row = table.own;
    if (!worker || !row) return;
    if (!core::get(row[started])) {
        core::set(row[started], core::Clock::wall_ms());
        core::set(row[generation], reload_status().generation);
    }
    rusage usage;
    ::getrusage(RUSAGE_SELF, &usage);
    core::set(row[pid], ::getpid());
    core::set(row[number], worker->id);
    core::set(row[seen], core::Clock::wall_ms());
    core::set(row[draining], worker->leaving());
    core::set(row[resident], resident_bytes());
    core::set(row[user], microseconds(usage.ru_utime));
    core::set(row[system], microseconds(usage.ru_stime));
    core::set(row[requests], int64_t(worker->counters.requests.load(std::memory_order_relaxed)));
    core::set(row[open_connections], int64_t(worker->connection_count));
}

constinit const MetricTable workers{
    .name = "workers", .columns = worker_columns, .by_worker = true, .publish = publish_worker};
REGISTER_METRICS(workers);

// ---- reloads ----

constexpr Column reload_columns[] = {
    {"count", Column::counter, "resty_config_reloads_total",
     "Reloads asked for, those that failed included."},
    {"failed", Column::counter, "resty_config_reloads_failed_total",
     "Reloads refused: the configuration before stayed in force."},
    {"last_successful", Column::gauge, "resty_config_last_reload_successful",
     "0 when the last reload failed."},
    {"last_success_seconds", Column::gauge,
     "resty_config_last_reload_success_timestamp_seconds",
     "When the configuration in force was loaded, seconds since 1970.", nullptr,
     Column::milliseconds},
    {"last_seconds", Column::gauge, "resty_config_last_reload_timestamp_seconds",
     "When a configuration was last read, seconds since 1970.", nullptr,
     Column::milliseconds},
    {"generation", Column::gauge, "resty_config_generation",
     "How many configurations were in force since the start."},
    {"last_error", Column::text},
};
void collect_reloads(const MetricTable&, MetricRows& to) {
    ReloadStatus now = reload_status();
    core::Slice error = now.last_error;
    int64_t values[] = {now.count, now.failed, now.last_ok, now.last_success_ms, now.last_ms,
                        now.generation};
    to.add({&error, 1}, values);
}
constinit const MetricTable reloads{
    .name = "reloads", .columns = reload_columns, .collect = collect_reloads};
REGISTER_METRICS(reloads);

// ---- the loop ----

constexpr Column loop_columns[] = {
    {"turn_seconds", Column::histogram, "resty_loop_turn_duration_seconds",
     "How long turns of workers' loops took: the longest that anything else had to wait."},
    {"timers", Column::gauge, "resty_loop_timers", "Timers that workers' loops wait for."},
};
void publish_loop(const MetricTable& table) {
    if (!table.own) return;
    core::Reactor& loop = core::Reactor::current();
    loop.count_turns(table.own);
    core::set(table.own[core::histogram::counters], int64_t(loop.timers().pending()));
}
constinit const MetricTable loop{
    .name = "loop", .columns = loop_columns, .publish = publish_loop};
REGISTER_METRICS(loop);

// ---- resolvers ----

constexpr Column resolver_request(const char* name, const char* labels,
                                  const char* help = nullptr) {
    return {name, Column::counter, "resty_resolver_requests_total", help, labels};
}
constexpr Column resolver_response(const char* name, const char* labels,
                                   const char* help = nullptr) {
    return {name, Column::counter, "resty_resolver_responses_total", help, labels};
}
// By core::Resolver::Count.
constexpr Column resolver_columns[] = {
    {"resolver", Column::label},
    resolver_request("name", "type=\"name\"", "Names that name servers were asked for, by kind."),
    resolver_request("srv", "type=\"srv\""),
    resolver_request("addr", "type=\"addr\""),
    {"cached", Column::counter, "resty_resolver_cached_total",
     "Names answered at once: known, literal addresses, or not possible."},
    resolver_response("noerror", "code=\"noerror\"", "What became of these requests."),
    resolver_response("formerr", "code=\"formerr\""),
    resolver_response("servfail", "code=\"servfail\""),
    resolver_response("nxdomain", "code=\"nxdomain\""),
    resolver_response("notimp", "code=\"notimp\""),
    resolver_response("refused", "code=\"refused\""),
    resolver_response("timedout", "code=\"timedout\""),
    resolver_response("unknown", "code=\"unknown\""),
};
void publish_resolvers(const MetricTable&);
constinit const MetricTable resolvers{
    .name = "resolvers", .columns = resolver_columns, .publish = publish_resolvers};
REGISTER_METRICS(resolvers);
void publish_resolvers(const MetricTable&) {
    core::Resolver::count_in([](const std::string& zone) {
        return own_row(resolvers, {zone.empty() ? core::Slice("_") : core::Slice(zone)});
    });
}

// ---- the error log ----

constexpr Column level(const char* name, const char* labels, const char* help = nullptr) {
    return {name, Column::counter, "resty_log_lines_total", help, labels};
}
// By core::Level; the first, "stderr", is nobody's.
constexpr Column log_columns[] = {
    {nullptr},
    level("emerg", "level=\"emerg\"", "Lines that workers wrote to error logs."),
    level("alert", "level=\"alert\""),
    level("crit", "level=\"crit\""),
    level("error", "level=\"error\""),
    level("warn", "level=\"warn\""),
    level("notice", "level=\"notice\""),
    level("info", "level=\"info\""),
    level("debug", "level=\"debug\""),
};
constinit const MetricTable log_lines{
    .name = "log_lines", .columns = log_columns,
    .publish = [](const MetricTable& table) { core::count_log_lines(table.own); }};
REGISTER_METRICS(log_lines);

}  // namespace

}  // namespace server
