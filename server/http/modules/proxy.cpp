// proxy_pass: answers a request with another server's response. This is the plain exchange: one
// server, a new connection each time, the body passed on as it comes; what the gateway adds to it
// (upstream groups, retries, kept connections, TLS, caching) has directives of its own.
#include <algorithm>

#include "core/clock.h"
#include "core/resolver.h"
#include "core/text.h"
#include "server/http/connection.h"
#include "server/http/escape.h"
#include "server/http/modules/proxy_parts.h"
#include "server/upstream/http_exchange.h"
#include "server/worker.h"

namespace server {

extern const Module proxy;

namespace {

using core::Slice;

// One proxied request. Lives in the request's arena.
class ProxyRun final : public UpstreamExchange::Client {
  public:
    explicit ProxyRun(Request& request);
    ~ProxyRun() { exchange_.stop(); }

    Verdict start();
    static void body_read(Request& request, void* self, Verdict verdict);

    void on_response_field(Slice name, Slice value) override;
    bool on_response_head(int status, Slice reason) override;
    void on_response_body(Slice bytes) override;
    void on_upstream_end(bool complete) override;
    void on_upstream_failure(int status) override;
    bool wants_more() override;

    Request& request;
    ProxyUrl url;
    HeaderList fields;               // of the response, as received
    int status = 0;
    int64_t header_ms = -1, response_ms = -1;
    const UpstreamExchange& exchange() const { return exchange_; }

  private:
    void connect();
    Verdict answer();
    static UpstreamOptions options(const Request& request);
    static void describe(const void* self, core::LogLine& line);

    core::LogContext own_log() const;
    UpstreamExchange exchange_;
    Request::Drain drain_;
    bool answering_ = false;         // the head went to the client
    bool intercepted_ = false;       // the response is replaced by an error page
};

ProxyRun::ProxyRun(Request& of)
    : request(of), fields(of.arena), exchange_(*this, own_log(), options(of)) {
    drain_.run = [](Request&, void* self) { static_cast<ProxyRun*>(self)->exchange_.resume(); };
    drain_.argument = this;
}

UpstreamOptions ProxyRun::options(const Request& request) {
    const auto& conf = request.conf<ProxyConf>(proxy);
    return {conf.connect_timeout->count, conf.send_timeout->count, conf.read_timeout->count,
            size_t(conf.buffer_size->count), request.method == Method::head};
}

// The request's, with the upstream server added to each line.
core::LogContext ProxyRun::own_log() const {
    core::LogContext log = request.log;
    log.describe = describe;
    log.subject = this;
    return log;
}

void ProxyRun::describe(const void* self, core::LogLine& line) {
    const auto& run = *static_cast<const ProxyRun*>(self);
    run.request.log.describe(run.request.log.subject, line);
    line.append(", upstream: \"http://");
    char room[128];
    core::Address address = run.exchange_.address();
    if (address.family() == AF_UNSPEC) {
        line.append(run.url.host_port);
    } else {
        line.append(address.ip_into(room, sizeof room));
        if (address.port()) line.format(":%d", address.port());
    }
    line.append_escaped(run.url.uri);
    line.append("\"");
}

Verdict ProxyRun::start() {
    const auto& conf = request.conf<ProxyConf>(proxy);
    if (auto parsed = conf.target.resolve(request); parsed) {
        url = std::move(*parsed);
    } else {
        LOG(request.log, error, 0, "%s", parsed.error().what.c_str());
        return Verdict::reject(500);
    }
    if (conf.pass_request_body && !conf.body.is_set) {
        Verdict read = request.body.read(request, {}, body_read, this);
        if (!read.is(Verdict::passed)) return read;
    }
    connect();
    return Verdict::suspend();
}

void ProxyRun::body_read(Request& request, void* self, Verdict verdict) {
    if (verdict.is(Verdict::passed)) return static_cast<ProxyRun*>(self)->connect();
    request.resume(verdict);
}

void ProxyRun::connect() {
    const auto& conf = request.conf<ProxyConf>(proxy);
    if (!conf.ignore_client_abort && !request.parent && !request.on_abort) {
        request.on_abort = [](Request&, void* self) {
            static_cast<ProxyRun*>(self)->exchange_.stop();
            static_cast<ProxyRun*>(self)->request.resume(Verdict::reject(status_client_closed));
        };
        request.on_abort_argument = this;
    }
    auto* own = static_cast<core::Resolver*>(request.core().resolver.get());
    core::Resolver& resolver = own ? *own : request.connection.worker.resolver();
    exchange_.start(url.target, resolver, make_proxy_request(request, conf, url));
}

void ProxyRun::on_response_field(Slice name, Slice value) {
    fields.add(request.arena.copy(name), request.arena.copy(value));
}

bool ProxyRun::on_response_head(int code, Slice reason) {
    status = code;
    header_ms = core::Clock::monotonic_ms() - exchange_.started_ms();
    if (code == 101) {
        LOG(request.log, error, 0, "upstream sent unexpected 101 response");
        return false;
    }
    const auto& conf = request.conf<ProxyConf>(proxy);
    if (conf.intercept_errors && code >= 300 && has_error_page(request, code)) {
        intercepted_ = true;
        return true;
    }
    request.response.status = uint16_t(code);
    if (!reason.empty()) {
        core::Appender line(request.arena, reason.size() + 4);
        line.append_number(code);
        line.append(' ');
        line.append(reason);
        request.response.status_line = line.take();
    }
    take_response_fields(request, conf, fields, url);
    answering_ = true;
    Verdict sent = request.send_header();
    if (!sent.is(Verdict::rejected)) return true;
    exchange_.stop();
    request.resume(sent);
    return true;
}

void ProxyRun::on_response_body(Slice bytes) {
    if (!answering_) return;
    core::Chain chain;
    chain.add_copy(bytes);
    const auto& conf = request.conf<ProxyConf>(proxy);
    if (!conf.buffering) chain.add_mark(core::Buffer::flush);
    request.send(std::move(chain));
}

bool ProxyRun::wants_more() {
    if (!request.output_blocked()) return true;
    request.on_drained(drain_);
    return false;
}

void ProxyRun::on_upstream_end(bool complete) {
    response_ms = core::Clock::monotonic_ms() - exchange_.started_ms();
    request.on_abort = nullptr;
    if (intercepted_) return request.resume(Verdict::reject(status));
    if (!complete) {
        request.cut("upstream closed before the end of its response");
        return request.resume(Verdict::finish());
    }
    request.send_last();
    request.resume(Verdict::finish());
}

void ProxyRun::on_upstream_failure(int code) {
    status = code;
    request.on_abort = nullptr;
    request.resume(Verdict::reject(code));
}

Verdict handle(Request& request) {
    auto* run = request.arena.make<ProxyRun>(request);
    request.set_state(proxy, run);
    return run->start();
}

// --- directives ---

conf::Result<void> set_pass(ProxyConf& conf, const conf::Line& line) {
    if (conf.target.is_set) return conf::detail::duplicate();
    Location* location = Configuration::current().binding_location;
    auto text = ComplexValue::compile(line.arg(0), line);
    if (!text) return text.take_error();
    conf.target.is_set = true;
    conf.target.text = std::move(*text);
    conf.target.location = location ? location->name : std::string();
    if (conf.target.text.is_constant()) {
        auto url = parse_proxy_url(line.arg(0));
        if (!url) return url.take_error();
        bool prefix = location && (location->kind == Location::prefix ||
                                   location->kind == Location::prefix_no_regex ||
                                   location->kind == Location::exact);
        if (!url->path.empty() && !prefix) {
            return core::Error{"\"proxy_pass\" cannot have URI part in location given by regular "
                               "expression, or inside named location, or inside \"if\" "
                               "statement, or inside \"limit_except\" block"};
        }
        conf.target.fixed = std::make_shared<const ProxyUrl>(std::move(*url));
    }
    if (location && location->name.ends_with('/')) location->slash_redirect = true;
    return set_content_handler(line, handle);
}

conf::Result<void> add_field(ProxyConf& conf, const conf::Line& line) {
    auto value = ComplexValue::compile(line.arg(1), line);
    if (!value) return value.take_error();
    conf.set_fields.push_back({std::string(line.arg(0)), std::move(*value)});
    return {};
}

conf::Result<void> hide_field(ProxyConf& conf, const conf::Line& line) {
    conf.hide_fields.emplace_back(line.arg(0));
    return {};
}

conf::Result<void> pass_field(ProxyConf& conf, const conf::Line& line) {
    conf.pass_fields.emplace_back(line.arg(0));
    return {};
}

conf::Result<void> add_redirect(ProxyConf& conf, const conf::Line& line) {
    conf.redirect_set = true;
    if (line.count() == 1) {
        if (line.arg(0) == "off") {
            conf.redirect_off = true;
        } else if (line.arg(0) == "default") {
            conf.redirect_set = false;
        } else {
            return conf::invalid_parameter(line.arg(0));
        }
        return {};
    }
    auto from = ComplexValue::compile(line.arg(0), line);
    if (!from) return from.take_error();
    auto to = ComplexValue::compile(line.arg(1), line);
    if (!to) return to.take_error();
    conf.redirects.push_back({std::move(*from), std::move(*to)});
    return {};
}

conf::Result<void> merge(ProxyConf& conf, const ProxyConf* outer, conf::Binder&) {
    if (!outer) return {};
    if (conf.set_fields.empty()) conf.set_fields = outer->set_fields;
    if (conf.hide_fields.empty()) conf.hide_fields = outer->hide_fields;
    if (conf.pass_fields.empty()) conf.pass_fields = outer->pass_fields;
    if (!conf.redirect_set && conf.redirects.empty()) {
        conf.redirects = outer->redirects;
        conf.redirect_set = outer->redirect_set;
        conf.redirect_off = outer->redirect_off;
    }
    return {};
}

constexpr uint32_t any = conf::in_any_http;
constexpr conf::Directive directives[] = {
    {"proxy_pass", conf::in_location | conf::in_location_if | conf::in_limit_except, conf::takes(1),
     conf::call<set_pass>},
    {"proxy_method", any, conf::takes(1), conf::field<&ProxyConf::method>},
    {"proxy_set_header", any, conf::takes(2), conf::call<add_field>},
    {"proxy_set_body", any, conf::takes(1), conf::field<&ProxyConf::body>},
    {"proxy_http_version", any, conf::takes(1), conf::field<&ProxyConf::http_version>},
    {"proxy_pass_request_headers", any, conf::takes_flag(),
     conf::field<&ProxyConf::pass_request_headers>},
    {"proxy_pass_request_body", any, conf::takes_flag(),
     conf::field<&ProxyConf::pass_request_body>},
    {"proxy_connect_timeout", any, conf::takes(1), conf::field<&ProxyConf::connect_timeout>},
    {"proxy_send_timeout", any, conf::takes(1), conf::field<&ProxyConf::send_timeout>},
    {"proxy_read_timeout", any, conf::takes(1), conf::field<&ProxyConf::read_timeout>},
    {"proxy_buffer_size", any, conf::takes(1), conf::field<&ProxyConf::buffer_size>},
    {"proxy_buffering", any, conf::takes_flag(), conf::field<&ProxyConf::buffering>},
    {"proxy_intercept_errors", any, conf::takes_flag(), conf::field<&ProxyConf::intercept_errors>},
    {"proxy_ignore_client_abort", any, conf::takes_flag(),
     conf::field<&ProxyConf::ignore_client_abort>},
    {"proxy_hide_header", any, conf::takes(1), conf::call<hide_field>},
    {"proxy_pass_header", any, conf::takes(1), conf::call<pass_field>},
    {"proxy_redirect", any, conf::takes(1, 2), conf::call<add_redirect>},
};

// --- variables ---

const ProxyRun* run_of(Request& request) { return request.state<ProxyRun>(proxy); }

core::Result<ProxyUrl> configured_url(Request& request) {
    if (const ProxyRun* run = run_of(request)) return run->url;
    const auto& target = request.conf<ProxyConf>(proxy).target;
    if (!target.is_set) return core::Error{"no proxy_pass here"};
    return target.resolve(request);
}

Value proxy_host(Request& request, Slice, uintptr_t) {
    auto url = configured_url(request);
    return url ? Value(request.arena.copy(url->host_port)) : Value::none();
}

Value proxy_port(Request& request, Slice, uintptr_t) {
    auto url = configured_url(request);
    if (!url || url->target.is_unix) return url ? Value(Slice("")) : Value::none();
    core::Appender text(request.arena, 8);
    text.append_number(url->target.port);
    return text.take();
}

Value add_x_forwarded_for(Request& request, Slice, uintptr_t) {
    Slice before = request.headers.joined("X-Forwarded-For", ", ");
    char room[128];
    Slice client = core::Address(request.connection.peer).ip_into(room, sizeof room);
    core::Appender text(request.arena, before.size() + client.size() + 2);
    if (!before.empty()) {
        text.append(before);
        text.append(", ");
    }
    text.append(client);
    return text.take();
}

Value upstream_addr(Request& request, Slice, uintptr_t) {
    const ProxyRun* run = run_of(request);
    if (!run || run->exchange().address().family() == AF_UNSPEC) return Value::none();
    return request.arena.copy(run->exchange().address().text());
}

Value upstream_status(Request& request, Slice, uintptr_t) {
    const ProxyRun* run = run_of(request);
    if (!run || run->status == 0) return Value::none();
    core::Appender text(request.arena, 8);
    text.append_number(run->status);
    return text.take();
}

// Seconds with milliseconds, "-" until it is known.
Value upstream_time(Request& request, Slice, uintptr_t header) {
    const ProxyRun* run = run_of(request);
    if (!run) return Value::none();
    int64_t ms = header ? run->header_ms : run->response_ms;
    if (ms < 0) return Slice("-");
    return request.arena.copy(core::format("%lld.%03d", static_cast<long long>(ms / 1000),
                                           int(ms % 1000)));
}

Value upstream_bytes(Request& request, Slice, uintptr_t) {
    const ProxyRun* run = run_of(request);
    if (!run) return Value::none();
    core::Appender text(request.arena, 24);
    text.append_number(run->exchange().bytes_received());
    return text.take();
}

// "content_type" names the field Content-Type.
Value upstream_http(Request& request, Slice rest, uintptr_t) {
    const ProxyRun* run = run_of(request);
    if (!run) return Value::none();
    std::string name(rest);
    std::replace(name.begin(), name.end(), '_', '-');
    const Header* field = run->fields.find(Slice(name));
    return field ? Value(field->value) : Value::none();
}

constexpr Variable variables[] = {
    {"proxy_host", proxy_host, Variable::volatile_},
    {"proxy_port", proxy_port, Variable::volatile_},
    {"proxy_add_x_forwarded_for", add_x_forwarded_for, Variable::volatile_},
    {"upstream_addr", upstream_addr, Variable::volatile_},
    {"upstream_status", upstream_status, Variable::volatile_},
    {"upstream_header_time", upstream_time, Variable::volatile_, 1},
    {"upstream_response_time", upstream_time, Variable::volatile_, 0},
    {"upstream_bytes_received", upstream_bytes, Variable::volatile_},
    {"upstream_http_", upstream_http, Variable::prefix | Variable::volatile_},
};

}  // namespace

constinit const Module proxy{
    .name = "proxy",
    .conf = conf_with_merge<ProxyConf, merge>,
    .directives = directives,
    .variables = variables,
    .has_request_state = true,
};
REGISTER_MODULE(proxy);

}  // namespace server
