// Counting tries, and the tables of upstream groups and their servers.
#include "server/upstream/group_metrics.h"

#include <vector>

#include "core/clock.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/upstream/group.h"
#include "server/upstream/states.h"

namespace server {

namespace {

using core::Slice;
using Column = MetricColumn;
namespace histogram = core::histogram;

// ---- groups ----

enum : size_t {
    connect_time = 0,
    header_time = histogram::counters,
    response_time = 2 * histogram::counters,
    kept_used = 3 * histogram::counters,
    idle_connections,
    queue_length,
};
constexpr Column group_columns[] = {
    {"upstream", Column::label},
    {"connect_seconds", Column::histogram, "resty_upstream_connect_duration_seconds",
     "Until a new connection to a server was ready, its TLS handshake included."},
    {"header_seconds", Column::histogram, "resty_upstream_header_duration_seconds",
     "From the choice of a server to the end of the head it answered with."},
    {"response_seconds", Column::histogram, "resty_upstream_response_duration_seconds",
     "From the choice of a server to the end of its response, failed tries included."},
    {"connections_reused", Column::counter, "resty_upstream_connections_reused_total",
     "Tries on a connection that was kept open."},
    {"idle_connections", Column::gauge, "resty_upstream_idle_connections",
     "Connections to servers that are kept open without a request."},
    {"queue", Column::gauge, "resty_upstream_queue",
     "Requests that wait for a server to have room."},
};
void publish_groups(const MetricTable&);
constinit const MetricTable upstreams{
    .name = "upstreams", .columns = group_columns, .publish = publish_groups};
REGISTER_METRICS(upstreams);

const std::vector<std::shared_ptr<UpstreamGroup>>& all_groups() {
    static const auto& none = *new std::vector<std::shared_ptr<UpstreamGroup>>;
    Configuration& configuration = Configuration::current();
    return configuration.http_level() ? upstream_groups().all : none;
}

void publish_groups(const MetricTable&) {
    for (const auto& group : all_groups()) {
        if (group->metrics) group->metrics->publish();
    }
}

// ---- servers ----

// What workers count: the table below joins it with what is known of each server.
enum : size_t { requests, failed, class_1xx, class_5xx = class_1xx + 4, received, sent, header_ns,
                response_ns, responses, checks, checks_failed, turned_unhealthy, active,
                unavailable, peer_values };
constexpr Column counted(const char* key) { return {key}; }
constexpr Column peer_row_columns[] = {
    {"upstream", Column::label}, {"peer", Column::label},
    counted("requests"), counted("failed"), counted("1xx"), counted("2xx"), counted("3xx"),
    counted("4xx"), counted("5xx"), counted("received"), counted("sent"), counted("header"),
    counted("response"), counted("responses"), counted("checks"), counted("checks_failed"),
    counted("unhealthy"), {"active", Column::gauge}, {"unavailable", Column::gauge},
};
constinit const MetricTable peer_rows{.name = nullptr, .columns = peer_row_columns};
REGISTER_METRICS(peer_rows);

constexpr const char* responses_metric = "resty_upstream_peer_responses_total";
constexpr Column peer_columns[] = {
    {"upstream", Column::label},
    {"peer", Column::label},
    {"server", Column::text},
    {"state", Column::text},
    {"up", Column::gauge, "resty_upstream_peer_up",
     "0 when the server is down, unhealthy, or, to some worker, unavailable after failures."},
    {"backup", Column::gauge},
    {"weight", Column::gauge, "resty_upstream_peer_weight", "The server's weight."},
    {"active", Column::gauge, "resty_upstream_peer_active",
     "Requests that the server is working on."},
    {"requests", Column::counter, "resty_upstream_peer_requests_total",
     "Tries to have a request answered by the server."},
    {"fails", Column::counter, "resty_upstream_peer_fails_total", "Tries that failed."},
    {"responses_1xx", Column::counter, responses_metric, "Responses of the server by class.",
     "code=\"1xx\""},
    {"responses_2xx", Column::counter, responses_metric, nullptr, "code=\"2xx\""},
    {"responses_3xx", Column::counter, responses_metric, nullptr, "code=\"3xx\""},
    {"responses_4xx", Column::counter, responses_metric, nullptr, "code=\"4xx\""},
    {"responses_5xx", Column::counter, responses_metric, nullptr, "code=\"5xx\""},
    {"received_bytes", Column::counter, "resty_upstream_peer_received_bytes_total",
     "Bytes that came from the server."},
    {"sent_bytes", Column::counter, "resty_upstream_peer_sent_bytes_total",
     "Bytes that went to the server."},
    {"header_seconds", Column::counter, "resty_upstream_peer_header_seconds_total",
     "Time until heads came; divided by the responses: their average.", nullptr,
     Column::nanoseconds},
    {"response_seconds", Column::counter, "resty_upstream_peer_response_seconds_total",
     "Time until responses were complete; divided by the responses: their average.", nullptr,
     Column::nanoseconds},
    {"health_checks", Column::counter, "resty_upstream_peer_health_checks_total",
     "Health checks of the server.", "result=\"passed\""},
    {"health_checks_failed", Column::counter, "resty_upstream_peer_health_checks_total", nullptr,
     "result=\"failed\""},
    {"unhealthy", Column::counter, "resty_upstream_peer_unhealthy_total",
     "How often health checks found the server unhealthy that was not before."},
};

struct PeerSums {
    int64_t values[peer_values] = {};
};
using SumsByPeer = std::unordered_map<std::string, PeerSums>;

std::string joined(Slice group, Slice peer) {
    return std::string(group).append(1, '\0').append(peer);
}

const char* state_name(const Peer& peer, bool is_unavailable) {
    if (peer.down & peer_down) return "down";
    if (peer.down & peer_unhealthy) return "unhealthy";
    if (peer.down & peer_draining) return "draining";
    return is_unavailable ? "unavailable" : "up";
}

void add_row(MetricRows& to, Slice group, Slice name, const Peer* peer, bool backup,
             const PeerSums& sums, bool shared) {
    const int64_t* value = sums.values;
    bool is_unavailable = value[unavailable] > 0;
    const char* state = peer ? state_name(*peer, is_unavailable) : "up";
    bool up = !is_unavailable && !(peer && peer->down & (peer_down | peer_unhealthy));
    int64_t passed = value[checks] - value[checks_failed];
    to.add({group, name, peer ? peer->server : Slice(), state},
           {up, backup, peer ? peer->weight : 1,
            shared ? int64_t(peer->conns) : value[active], value[requests], value[failed],
            value[class_1xx], value[class_1xx + 1], value[class_1xx + 2], value[class_1xx + 3],
            value[class_5xx], value[received], value[sent], value[header_ns], value[response_ns],
            passed, value[checks_failed], value[turned_unhealthy]});
}

void collect_group(UpstreamGroup& group, Slice name, SumsByPeer& sums, MetricRows& to) {
    PeerTable* table = group.table();
    PeerLock lock(group.store);
    for (const PeerList* list : {&table->primary, &table->backup}) {
        if (group.placeholder) break;
        for (uint32_t i = 0; i < list->count; ++i) {
            const Peer& peer = *list->items[i];
            auto known = sums.extract(joined(name, peer.name));
            add_row(to, name, peer.name, &peer, list == &table->backup,
                    known ? known.mapped() : PeerSums(), group.store.shared());
        }
    }
    group.store.drop(table);
}

std::string label_of(const UpstreamGroup& group) {
    return group.implicit ? group.name + ":" + std::to_string(group.port) : group.name;
}

// Servers of the groups as they are now; and those that scripts have chosen themselves.
void collect_peers(const MetricTable&, MetricRows& to) {
    MetricRows rows(peer_rows);
    read_rows(peer_rows, rows);
    SumsByPeer sums;
    for (size_t row = 0; row < rows.count(); ++row) {
        PeerSums& sum = sums[joined(rows.text(row, 0), rows.text(row, 1))];
        for (size_t i = 0; i < peer_values; ++i) sum.values[i] += rows.values(row)[i];
    }
    for (const auto& group : all_groups()) {
        std::string name = label_of(*group);
        collect_group(*group, name, sums, to);
        if (!group->chooser) continue;
        for (const auto& [key, sum] : sums) {
            if (!key.starts_with(joined(name, {}))) continue;
            add_row(to, name, Slice(key).substr(name.size() + 1), nullptr, false, sum, false);
        }
    }
}
constinit const MetricTable upstream_peers{
    .name = "upstream_peers", .columns = peer_columns, .collect = collect_peers};
REGISTER_METRICS(upstream_peers);

}  // namespace

GroupMetrics::GroupMetrics(UpstreamGroup& group)
    : group_(group), name_(label_of(group)), own_(own_row(upstreams, {name_})) {}

GroupMetrics::~GroupMetrics() {
    for (auto& [name, row] : peers_) give_up_row(peer_rows, row);
    give_up_row(upstreams, own_);
}

core::Counter* GroupMetrics::row_of(Slice peer) {
    if (auto found = peers_.find(peer); found != peers_.end()) return found->second;
    core::Counter* row = own_row(peer_rows, {name_, peer});
    if (row) peers_.emplace(peer, row);
    return row;
}

void GroupMetrics::tried(const UpstreamState& state, const TryClock& clock, bool has_failed,
                         bool kept) {
    uint64_t took_ns = core::Ticks::ns_since(clock.began);
    if (own_) {
        if (clock.connect_ns) histogram::observe(own_ + connect_time, clock.connect_ns);
        if (clock.header_ns) histogram::observe(own_ + header_time, clock.header_ns);
        histogram::observe(own_ + response_time, took_ns);
        if (kept) core::add(own_[kept_used]);
    }
    core::Counter* row = row_of(state.peer);
    if (!row) return;
    core::add(row[requests]);
    if (has_failed) core::add(row[failed]);
    core::add(row[received], state.bytes_received);
    core::add(row[sent], state.bytes_sent);
    if (!clock.header_ns) return;
    if (state.status >= 100 && state.status < 600) {
        core::add(row[class_1xx + size_t(state.status / 100) - 1]);
    }
    core::add(row[responses]);
    core::add(row[header_ns], int64_t(clock.header_ns));
    core::add(row[response_ns], int64_t(took_ns));
}

void GroupMetrics::checked(Slice peer, bool passed, bool now_unhealthy) {
    core::Counter* row = row_of(peer);
    if (!row) return;
    core::add(row[checks]);
    if (!passed) core::add(row[checks_failed]);
    if (now_unhealthy) core::add(row[turned_unhealthy]);
}

void GroupMetrics::publish() {
    if (own_) {
        core::set(own_[idle_connections], group_.pool.count());
        core::set(own_[queue_length], group_.queued);
    }
    PeerTable* table = group_.table();
    size_t count = table->primary.count + table->backup.count;
    {
        PeerLock lock(group_.store);
        int64_t now_s = core::Clock::seconds();
        for (const PeerList* list : {&table->primary, &table->backup}) {
            for (uint32_t i = 0; i < list->count && !group_.placeholder; ++i) {
                const Peer& peer = *list->items[i];
                core::Counter* row = row_of(peer.name);
                if (!row) continue;
                core::set(row[active], peer.conns);
                bool full = peer.max_conns && peer.conns >= peer.max_conns;
                core::set(row[unavailable], !full && !is_available(peer, now_s));
            }
        }
        group_.store.drop(table);
    }
    constexpr size_t spare = 64;
    if (!group_.chooser && peers_.size() > 2 * count + spare) forget_gone();
}

// Servers come and go: those that are no more give their rows up. Those that are get theirs back.
void GroupMetrics::forget_gone() {
    for (auto& [name, row] : peers_) give_up_row(peer_rows, row);
    peers_.clear();
}

}  // namespace server
