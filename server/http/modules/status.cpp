// The status module: resty_status answers with everything that is counted (server/metrics.h), as
// JSON or in Prometheus' text format; status_zone names what requests are counted for. The answer
// is made in pieces between turns of the loop, and no faster than the client takes it.
#include "server/http/modules/status.h"

#include "core/text.h"
#include "core/timer.h"
#include "server/config.h"
#include "server/http/request_timer.h"
#include "server/metrics.h"
#include "server/worker.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Slice;

// Values written in one go: some 100 microseconds.
constexpr size_t piece_values = 200;
constexpr int64_t publish_ms = 1000;

// ---- answering ----

struct Answer {
    Answer(Request& of, MetricsPage::Format format)
        : request(of), page(format), next([](void* it) { static_cast<Answer*>(it)->go_on(); }, this)
    {
        drain.run = [](Request&, void* it) { static_cast<Answer*>(it)->go_on(); };
        drain.argument = this;
    }
    Verdict send_piece();
    void go_on() {
        Verdict verdict = send_piece();
        if (!verdict.is(Verdict::suspended)) request.resume(verdict);
    }

    Request& request;
    MetricsPage page;
    std::string text;
    core::Deferred next;
    Request::Drain drain;
};

Verdict Answer::send_piece() {
    text.clear();
    bool more = page.write(text, piece_values);
    core::Chain chain;
    chain.add_copy(text);
    if (!more) chain.add_mark(core::Buffer::last);
    Verdict sent = request.send(std::move(chain));
    if (sent.is(Verdict::rejected)) return sent;
    if (!more) return Verdict::finish();
    // The flush stage takes what is queued within it in the next turn: others come first.
    if (request.output_blocked()) request.on_drained(drain);
    else core::Reactor::current().at_end(core::Reactor::flush, next);
    return Verdict::suspend();
}

// The value of an argument of the query string; null data when it is not there.
Slice argument(Slice args, Slice name) {
    while (!args.empty()) {
        size_t end = args.find('&');
        Slice one = args.substr(0, end);
        args.remove_prefix(end == Slice::npos ? args.size() : end + 1);
        if (one.starts_with(name) && one.substr(name.size()).starts_with('=')) {
            return one.substr(name.size() + 1);
        }
    }
    return {};
}

std::optional<MetricsPage::Format> parse_format(Slice name) {
    if (name == "json") return MetricsPage::Format::json;
    if (name == "prometheus") return MetricsPage::Format::prometheus;
    return {};
}

// ?format=, else the directive's argument, else what the client accepts: Prometheus asks for
// text/plain or OpenMetrics, browsers and tools for neither.
std::optional<MetricsPage::Format> format_of(Request& request) {
    Slice wanted = argument(request.args, "format");
    if (wanted.data()) return parse_format(wanted);
    if (auto fixed = request.conf<StatusConf>(status_module).format) return fixed;
    Slice accept = request.headers.joined("Accept", ", ");
    auto accepts = [&](Slice type) { return core::ifind(accept, type) != Slice::npos; };
    bool text = accepts("text/plain") || accepts("application/openmetrics-text");
    return text && !accepts("application/json") ? MetricsPage::Format::prometheus
                                                : MetricsPage::Format::json;
}

Verdict serve(Request& request) {
    if (request.method != Method::get && request.method != Method::head) {
        return Verdict::reject(405);
    }
    request.body.discard(request);
    auto format = format_of(request);
    if (!format) return Verdict::reject(400);
    request.response.status = 200;
    request.response.content_type = MetricsPage::content_type(*format);
    request.response.headers.add("Cache-Control", "no-store");
    Verdict sent = request.send_header();
    if (sent.is(Verdict::rejected)) return sent;
    if (request.header_only) {
        sent = request.send_last();
        return sent.is(Verdict::rejected) ? sent : Verdict::finish();
    }
    publish_metrics();
    return request.arena.make<Answer>(request, *format)->send_piece();
}

// ---- configuration ----

Result<void> enable(StatusConf& conf, const Line& line) {
    if (line.count() == 1) {
        conf.format = parse_format(line.arg(0));
        if (!conf.format) return conf::invalid_parameter(line.arg(0));
    }
    Configuration::current().counts_metrics = true;
    return set_content_handler(line, serve);
}

Result<void> set_zone(StatusConf& conf, const Line& line) {
    auto& zone = line.context == conf::in_server ? conf.server_zone : conf.location_zone;
    if (zone.is_set) return conf::detail::duplicate();
    if (line.arg(0).empty()) return conf::invalid_value(line.arg(0));
    if (line.arg(0) == "off" && line.context == conf::in_server) {
        return conf::invalid_value(line.arg(0));
    }
    zone.set(std::string(line.arg(0)));
    return {};
}

Result<void> merge(StatusConf& conf, const StatusConf* outer, conf::Binder&) {
    if (!outer) return {};
    conf.server_zone.inherit(outer->server_zone);
    conf.location_zone.inherit(outer->location_zone);
    return {};
}

bool counts(const void*) { return Configuration::current().counts_metrics; }

core::Result<void> init_process(Configuration& configuration) {
    if (!configuration.counts_metrics || open_metrics()) return {};
    return core::Error{core::format("mmap() of the memory for metrics failed (%d: %s)", errno,
                                    core::error_name(errno))};
}

// ---- once a second ----

struct Publisher {
    core::Timer timer{[](void* self) { static_cast<Publisher*>(self)->run(); }, this};
    void run() {
        publish_metrics();
        timer.set(publish_ms);
    }
};
std::unique_ptr<Publisher>& publisher() {
    static auto& instance = *new std::unique_ptr<Publisher>;
    return instance;
}

core::Result<void> init_worker(Worker& worker) {
    if (!metrics_on) return {};
    open_request_rows(worker.configuration);
    request_timer = &status_module;
    publisher() = std::make_unique<Publisher>();
    publisher()->timer.set(publish_ms);
    return {};
}

void exit_worker(Worker&) {
    publisher().reset();
    request_timer = nullptr;
}

constexpr conf::Directive directives[] = {
    {"resty_status", conf::in_location, conf::takes(0, 1), conf::call<enable>},
    {"status_zone", conf::in_server | conf::in_location | conf::in_location_if, conf::takes(1),
     conf::call<set_zone>},
};

constexpr PhaseHandler handlers[] = {
    {Phase::log, rank::first, count_request, counts},
};

}  // namespace

constinit const Module status_module{
    .name = "status",
    .conf = conf_with_merge<StatusConf, merge>,
    .directives = directives,
    .handlers = handlers,
    .init_process = init_process,
    .init_worker = init_worker,
    .exit_worker = exit_worker,
    .has_request_state = true,
    .state_outlives_redirects = true,
};
REGISTER_MODULE(status_module);

}  // namespace server
