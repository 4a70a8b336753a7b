// Counting requests for the status module: by server (status_zone, or its name) and by location
// (status_zone): status codes, bytes, and how long they took.
#include <array>

#include "server/http/modules/status.h"
#include "server/http/request_timer.h"
#include "server/metrics.h"

namespace server {

namespace {

using core::Counter;
using core::Slice;
namespace histogram = core::histogram;

// Codes with a counter of their own. Others share one for each class.
constexpr uint16_t codes[] = {
    100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304,
    305, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415,
    416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 444, 451, 494, 495, 496, 497, 499,
    500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511,
};
constexpr size_t known_codes = std::size(codes);
constexpr size_t classes = 6;                        // 1xx to 5xx, and what is none of them
constexpr const char* class_names[classes] = {"other", "1xx", "2xx", "3xx", "4xx", "5xx"};

// A row: bytes, the codes, the codes of no name by class, durations.
enum : size_t { received, sent, first_code, first_class = first_code + known_codes,
                durations = first_class + classes, row_values = durations + histogram::counters };

struct CodeIndex {
    uint8_t at[600] = {};
};
consteval CodeIndex make_code_index() {
    CodeIndex index;
    for (size_t code = 0; code < 600; ++code) {
        index.at[code] = uint8_t(first_class + (code >= 100 ? code / 100 : 0));
    }
    for (size_t i = 0; i < known_codes; ++i) index.at[codes[i]] = uint8_t(first_code + i);
    return index;
}
constexpr CodeIndex code_index = make_code_index();

// What workers write: the tables below are made of it.
constexpr auto make_row_columns() {
    std::array<MetricColumn, 1 + durations + 1> columns{};
    columns[0] = {"zone", MetricColumn::label};
    columns[1 + durations] = {"duration", MetricColumn::histogram};
    return columns;
}
constexpr auto row_columns = make_row_columns();
constinit const MetricTable server_rows{.name = nullptr, .columns = row_columns};
REGISTER_METRICS(server_rows);
constinit const MetricTable location_rows{.name = nullptr, .columns = row_columns};
REGISTER_METRICS(location_rows);

// ---- what is shown ----

void collect_codes(const MetricTable& rows, MetricRows& to) {
    MetricRows found(rows);
    read_rows(rows, found);
    for (size_t row = 0; row < found.count(); ++row) {
        const int64_t* values = found.values(row);
        for (size_t i = 0; i < known_codes; ++i) {
            if (!values[first_code + i]) continue;
            to.add({found.text(row, 0), std::to_string(codes[i])}, {values[first_code + i]});
        }
        for (size_t i = 0; i < classes; ++i) {
            if (!values[first_class + i]) continue;
            to.add({found.text(row, 0), class_names[i]}, {values[first_class + i]});
        }
    }
}

void collect_zones(const MetricTable& rows, MetricRows& to) {
    MetricRows found(rows);
    read_rows(rows, found);
    for (size_t row = 0; row < found.count(); ++row) {
        const int64_t* values = found.values(row);
        int64_t by_class[classes] = {}, all = 0;
        for (size_t i = 0; i < classes; ++i) by_class[i] = values[first_class + i];
        for (size_t i = 0; i < known_codes; ++i) by_class[codes[i] / 100] += values[first_code + i];
        for (int64_t count : by_class) all += count;
        std::vector<int64_t> out{all,         by_class[1], by_class[2],      by_class[3],
                                 by_class[4], by_class[5], values[received], values[sent]};
        out.insert(out.end(), values + durations, values + row_values);
        Slice name = found.text(row, 0);
        to.add({&name, 1}, out);
    }
}

using Column = MetricColumn;

constexpr Column server_codes_columns[] = {
    {"server_zone", Column::label},
    {"code", Column::label},
    {"requests", Column::counter, "resty_requests_total",
     "Requests answered, by server and status code; codes without a name as 2xx and so on."},
};
constinit const MetricTable server_codes{
    .name = "responses", .columns = server_codes_columns,
    .collect = [](const MetricTable&, MetricRows& to) { collect_codes(server_rows, to); }};
REGISTER_METRICS(server_codes);

// What is told of zones of servers and of locations, by the names their metrics have.
constexpr std::array<Column, 10> zone_columns(const char* label, const char* received_bytes,
                                              const char* sent_bytes, const char* duration) {
    return {{
        {label, Column::label},
        {"requests", Column::counter},
        {"responses_1xx", Column::counter},
        {"responses_2xx", Column::counter},
        {"responses_3xx", Column::counter},
        {"responses_4xx", Column::counter},
        {"responses_5xx", Column::counter},
        {"received_bytes", Column::counter, received_bytes, "Bytes of requests, heads included."},
        {"sent_bytes", Column::counter, sent_bytes, "Bytes of responses, heads included."},
        {"duration_seconds", Column::histogram, duration,
         "From a request's head to the end of its response."},
    }};
}

constexpr auto server_columns = zone_columns("server_zone", "resty_request_received_bytes_total",
                                             "resty_response_sent_bytes_total",
                                             "resty_request_duration_seconds");
constinit const MetricTable server_zones{
    .name = "server_zones", .columns = server_columns,
    .collect = [](const MetricTable&, MetricRows& to) { collect_zones(server_rows, to); }};
REGISTER_METRICS(server_zones);

constexpr Column location_codes_columns[] = {
    {"location_zone", Column::label},
    {"code", Column::label},
    {"requests", Column::counter, "resty_location_requests_total",
     "Requests answered, by the location's status_zone and status code."},
};
constinit const MetricTable location_codes{
    .name = "location_responses", .columns = location_codes_columns,
    .collect = [](const MetricTable&, MetricRows& to) { collect_codes(location_rows, to); }};
REGISTER_METRICS(location_codes);

constexpr auto location_columns = zone_columns(
    "location_zone", "resty_location_request_received_bytes_total",
    "resty_location_response_sent_bytes_total", "resty_location_request_duration_seconds");
constinit const MetricTable location_zones{
    .name = "location_zones", .columns = location_columns,
    .collect = [](const MetricTable&, MetricRows& to) { collect_zones(location_rows, to); }};
REGISTER_METRICS(location_zones);

// ---- counting ----

void add_to(Counter* row, const Request& request, uint64_t ns) {
    unsigned status = request.error_status ? request.error_status : request.response.status;
    core::add(row[status < 600 ? code_index.at[status] : size_t(first_class)]);
    core::add(row[received], int64_t(request.head.raw.size()) + request.body.size());
    core::add(row[sent], request.bytes_sent);
    histogram::observe(row + durations, ns);
}

Slice name_of(const VirtualServer& server) {
    const StatusConf& conf = server.root.conf<StatusConf>(status_module);
    if (!conf.server_zone.value.empty()) return conf.server_zone.value;
    return server.name().empty() ? Slice("_") : server.name();
}

}  // namespace

void open_request_rows(Configuration& configuration) {
    for (auto& server : configuration.servers) {
        server->counters = own_row(server_rows, {name_of(*server)});
    }
    for (Location* location : configuration.locations) {
        if (location->kind == Location::server_root) continue;
        const StatusConf& conf = location->conf<StatusConf>(status_module);
        if (conf.location_zone.value.empty() || conf.location_zone.value == "off") continue;
        conf.location_row = own_row(location_rows, {conf.location_zone.value});
    }
}

Verdict count_request(Request& request) {
    if (request.parent) return Verdict::decline();
    uint64_t ns = core::Ticks::ns_since(request_start(request, status_module));
    if (Counter* row = request.server->counters) add_to(row, request, ns);
    Counter* row = request.conf<StatusConf>(status_module).location_row;
    if (row) [[unlikely]] add_to(row, request, ns);
    return Verdict::decline();
}

}  // namespace server
