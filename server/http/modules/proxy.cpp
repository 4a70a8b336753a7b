// proxy_pass: answers a request with the response of an HTTP/1 server. How that is chosen and
// reached is upstream/session's; this is what is spoken: requests, response heads, framing, and
// what a response may order (X-Accel-…). Requests and responses are built in proxy_request.cpp and
// proxy_response.cpp, directives are in proxy_directives.cpp.
#include <algorithm>

#include "conf/values.h"
#include "core/text.h"
#include "server/http/connection.h"
#include "server/http/exchange.h"
#include "server/http/modules/proxy.h"
#include "server/http/uri.h"
#include "server/upstream/response_parser.h"
#include "server/upstream/tls_scripts.h"

namespace server {

extern const Module proxy;

namespace {

using core::Slice;

constexpr int interim_max = 100;   // answers before the final one (100, 103); more are abuse

// One proxied request. Lives in the request's arena.
class ProxyRun final : public UpstreamProtocol {
  public:
    ProxyRun(Request& of, const ProxyConf& with);

    Verdict start();

    bool make_request(core::Chain& to) override;
    void frame_body(core::Chain& piece, bool last) override;
    void recreate() override;
    void reset() override;
    Head read_head(Slice& bytes) override;
    int status() const override { return head_.status; }
    bool wants_tunnel() const override;
    Verdict accept_head() override;
    Slice next_body(Slice& bytes) override { return body_.next(bytes); }
    Body body_state() const override { return translate(body_.state()); }
    Body body_closed() override { return translate(body_.closed()); }
    void body_complete() override;
    bool keeps_connection() const override;

    Request& request;
    const ProxyConf& conf;
    ProxyUrl url;

  private:
    static void body_read(Request& request, void* self, Verdict verdict);
    static Body translate(BodyReader::State state);
    Verdict begin();
    Head interim();
    void start_body();
    Slice field(HeaderId id, IgnoredField ignored) const;
    Verdict redirect(Slice target);
    Verdict intercept();
    void obey_fields();

    UpstreamSession session_;
    HeaderList fields_, trailers_;
    ResponseHead head_;
    BodyReader body_;
    size_t searched_ = 0;
    int interims_ = 0;
    Slice method_, uri_;
    bool streams_ = false;
};

ProxyRun::ProxyRun(Request& of, const ProxyConf& with)
    : request(of),
      conf(with),
      session_(of, with, *this),
      fields_(of.arena),
      trailers_(of.arena) {}

ProxyRun::Body ProxyRun::translate(BodyReader::State state) {
    switch (state) {
        case BodyReader::State::complete: return Body::complete;
        case BodyReader::State::bad: return Body::bad;
        case BodyReader::State::more: break;
    }
    return Body::more;
}

Verdict ProxyRun::start() {
    if (conf.target.is_fixed) {
        url = conf.target.fixed;
    } else {
        Slice text = conf.target.text.evaluate(request);
        auto parsed = parse_proxy_url(text);
        if (!parsed) {
            const std::string& what = parsed.error().what;
            bool says_where = what.find('"') != std::string::npos;
            if (says_where) LOG(request.log, error, 0, "%s", what.c_str());
            else LOG(request.log, error, 0, "%s in \"%.*s\"", what.c_str(), int(text.size()),
                     text.data());
            return Verdict::reject(500);
        }
        url = std::move(*parsed);
    }
    uri_ = proxy_uri(request, conf.target, url);
    method_ = conf.method.is_set ? conf.method->evaluate(request) : request.head.method_name;
    session_.describe(url.scheme, uri_);
    if (url.tls) session_.use_tls();
    bool passes_body = conf.pass_request_body && !conf.body.is_set;
    if (!passes_body) return begin();
    streams_ = !conf.request_buffering && !request.parent && request.body.present() &&
               request.body.state() == RequestBody::State::untouched &&
               (!request.body.chunked || *conf.http_version == ProxyVersion::http_1_1);
    if (streams_) {
        session_.stream_body();
        return begin();
    }
    Verdict read = request.body.read(request, {}, body_read, this);
    return read.is(Verdict::passed) ? begin() : read;
}

void ProxyRun::body_read(Request& request, void* self, Verdict verdict) {
    if (verdict.is(Verdict::passed)) verdict = static_cast<ProxyRun*>(self)->begin();
    if (!verdict.is(Verdict::suspended)) request.resume(verdict);
}

Verdict ProxyRun::begin() {
    UpstreamGroup* group = conf.target.group;
    if (!group) group = upstream_groups().find(url.host, url.no_port ? 0 : url.port);
    if (group) return session_.start(*group);
    return session_.start(UpstreamHost{url.host, url.port, url.is_unix});
}

bool ProxyRun::make_request(core::Chain& to) {
    ProxyRequest what{method_, uri_, &url, streams_, request.body.chunked};
    return make_proxy_request(request, conf, what, to);
}

void ProxyRun::recreate() {
    uri_ = proxy_uri(request, conf.target, url);
    if (!conf.method.is_set) method_ = request.head.method_name;
    session_.describe(url.scheme, uri_);
}

void ProxyRun::frame_body(core::Chain& piece, bool last) {
    if (!request.body.chunked) return;
    int64_t size = piece.bytes();
    if (size > 0) {
        core::Chain framed;
        framed.add_copy(core::format("%llx\r\n", static_cast<unsigned long long>(size)));
        framed.append(std::move(piece));
        framed.add_copy("\r\n");
        piece = std::move(framed);
    }
    if (last) piece.add_copy("0\r\n\r\n");
}

void ProxyRun::reset() {
    fields_.clear();
    trailers_.clear();
    head_ = {};
    body_ = {};
    searched_ = 0;
    interims_ = 0;
    UpstreamRecord& record = upstream_record(request);
    record.fields = &fields_;
    record.trailers = &trailers_;
}

ProxyRun::Head ProxyRun::read_head(Slice& bytes) {
    const core::LogContext& log = session_.log();
    if (!may_be_response(bytes)) {
        LOG(log, error, 0, "upstream sent no valid HTTP/1.0 header");
        return Head::invalid;
    }
    size_t end = find_head_end(bytes, searched_);
    if (end == 0) return Head::incomplete;
    Slice text = request.arena.copy(bytes.substr(0, end));
    bytes.remove_prefix(end);
    searched_ = 0;
    fields_.clear();
    if (const char* wrong = parse_response_head(text, head_, fields_)) {
        LOG(log, error, 0, "%s", wrong);
        return Head::invalid;
    }
    if (head_.status < 200 && head_.status != 101) return interim();
    start_body();
    return Head::complete;
}

// 103 goes on to the client where early_hints says so; 100 and others are dropped.
ProxyRun::Head ProxyRun::interim() {
    if (++interims_ > interim_max) {
        LOG(session_.log(), error, 0, "upstream sent too many interim responses");
        return Head::invalid;
    }
    const auto& wanted = *request.core().early_hints;
    bool passes = std::any_of(wanted.begin(), wanted.end(), [&](const ComplexValue& value) {
        Slice text = value.evaluate(request);
        return !text.empty() && text != "0";
    });
    if (head_.status == 103 && passes && !request.parent) {
        for (const Header& hint : fields_) {
            if (conf.hidden.has(hint)) continue;
            request.response.headers.add(hint.name, hint.value, hint.id);
        }
        request.exchange->send_interim(request, 103);
        request.response.headers.clear();
    }
    return Head::interim;
}

void ProxyRun::start_body() {
    bool none = core::iequals(method_, "HEAD") || head_.status == 204 || head_.status == 304 ||
                head_.status == 101;
    if (none) return body_.none();
    if (head_.chunked) return body_.chunked();
    if (head_.content_length >= 0) return body_.of_length(head_.content_length);
    body_.until_close();
}

bool ProxyRun::wants_tunnel() const {
    return head_.status == 101 && request.headers.has(HeaderId::upgrade) && !request.parent &&
           asks_upgrade(request, conf);
}

bool ProxyRun::keeps_connection() const { return !head_.close && !body_.is_until_close(); }

// ---- what a response orders ----

Slice ProxyRun::field(HeaderId id, IgnoredField ignored) const {
    if (conf.ignore_fields->has(ignored) || !fields_.has(id)) return {};
    return fields_.value(id);
}

Verdict ProxyRun::accept_head() {
    if (head_.status >= 300 && conf.intercept_errors && has_error_page(request, head_.status)) {
        return intercept();
    }
    Slice target = field(HeaderId::x_accel_redirect, IgnoredField::x_accel_redirect);
    if (!target.empty()) return redirect(target);
    Response& response = request.response;
    response.status = uint16_t(head_.status);
    response.status_line = head_.status_line;
    take_response_fields(request, conf, fields_, url);
    if (!head_.chunked && (head_.content_length >= 0)) {
        response.content_length = head_.content_length;
    }
    obey_fields();
    if (conf.limit_rate.is_set) {
        auto rate = conf::parse_size(conf.limit_rate->evaluate(request));
        if (rate) session_.limit_rate(*rate);
    }
    if (conf.store->on) session_.relay().keep_all();
    return Verdict::pass();
}

Verdict ProxyRun::intercept() {
    if (head_.status == 401) {
        for (const Header& each : fields_) {
            if (each.id != HeaderId::www_authenticate) continue;
            request.response.headers.add(each.name, each.value, each.id);
        }
    }
    return Verdict::reject(head_.status);
}

// X-Accel-Redirect: the response is made elsewhere; what it says of the content goes along.
Verdict ProxyRun::redirect(Slice target) {
    Response& response = request.response;
    for (const Header& each : fields_) {
        switch (each.id) {
            case HeaderId::content_type: response.content_type = each.value; break;
            case HeaderId::set_cookie:
            case HeaderId::content_disposition:
            case HeaderId::cache_control:
            case HeaderId::expires:
                if (!conf.hidden.has(each)) {
                    response.headers.add(each.name, each.value, each.id);
                }
                break;
            default: break;
        }
    }
    obey_fields();
    if (target[0] == '@') return request.named_location(target);
    Slice args;
    Slice written = target;
    if (!split_internal_uri(request.arena, target, args)) {
        LOG(session_.log(), error, 0, "unsafe URI \"%.*s\" was detected", int(written.size()),
            written.data());
        return Verdict::reject(404);
    }
    if (request.method != Method::head) {
        request.method = Method::get;
        request.head.method_name = "GET";
    }
    return request.internal_redirect(target, args);
}

void ProxyRun::obey_fields() {
    Slice rate = field(HeaderId::x_accel_limit_rate, IgnoredField::x_accel_limit_rate);
    if (!rate.empty()) {
        if (auto bytes = core::parse_number(rate)) {
            request.limit_rate = int64_t(*bytes);
            request.limit_rate_set = true;
        }
    }
    Slice buffering = field(HeaderId::x_accel_buffering, IgnoredField::x_accel_buffering);
    if (core::iequals(buffering, "yes")) session_.relay().set_buffering(true);
    if (core::iequals(buffering, "no")) session_.relay().set_buffering(false);
    Slice charset = field(HeaderId::x_accel_charset, IgnoredField::x_accel_charset);
    if (!charset.empty()) request.response.charset = charset;
}

void ProxyRun::body_complete() {
    if (body_.trailers().empty()) return;
    Slice lines = request.arena.copy(body_.trailers());
    if (!parse_trailers(lines, trailers_)) {
        LOG(session_.log(), error, 0, "upstream sent invalid trailer");
        trailers_.clear();
    }
    if (!conf.pass_trailers) return;
    for (const Header& each : trailers_) {
        if (!conf.hidden.has(each)) {
            request.response.trailers.add(each.name, each.value, each.id);
        }
    }
}

// ---- variables ----

// What proxy_pass names, asked for by a variable before or during the exchange.
bool current_url(Request& request, ProxyUrl& url) {
    if (const auto* run = request.state<ProxyRun>(proxy)) {
        url = run->url;
        return true;
    }
    const auto& target = request.conf<ProxyConf>(proxy).target;
    if (!target.is_set) return false;
    if (target.is_fixed) {
        url = target.fixed;
        return true;
    }
    auto parsed = parse_proxy_url(target.text.evaluate(request));
    if (parsed) url = std::move(*parsed);
    return bool(parsed);
}

Value proxy_host(Request& request, Slice, uintptr_t) {
    ProxyUrl url;
    return current_url(request, url) ? Value(url.host_port) : Value::none();
}

Value proxy_port(Request& request, Slice, uintptr_t) {
    ProxyUrl url;
    if (!current_url(request, url)) return Value::none();
    if (url.is_unix) return Slice("");
    core::Appender text(request.arena, 8);
    text.append_number(url.port);
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

constexpr Variable variables[] = {
    {"proxy_host", proxy_host, Variable::volatile_},
    {"proxy_port", proxy_port, Variable::volatile_},
    {"proxy_add_x_forwarded_for", add_x_forwarded_for, Variable::volatile_},
};

// ---- life ----

// A constant proxy_pass names an upstream{} block, or a server of its own.
UpstreamGroup* group_of(const ProxyUrl& url, const conf::Place& place) {
    UpstreamGroups& groups = upstream_groups();
    if (!url.is_unix) {
        if (auto* known = groups.find(url.host, url.no_port ? 0 : url.port)) return known;
        if (auto* known = groups.find(url.host, url.port)) return known;
    }
    if (url.is_unix) return nullptr;
    auto made = std::make_shared<UpstreamGroup>(std::string(url.host), place);
    made->implicit = true;
    made->port = url.port;
    ServerLine line;
    line.spec.server = url.host_port;
    line.port = url.port;
    core::Address literal;
    if (core::Address::parse_ip(url.host, literal)) {
        literal.set_port(url.port);
        line.addresses.push_back(literal);
    } else {
        line.host = url.host;
    }
    made->servers.push_back(std::move(line));
    groups.all.push_back(made);
    return made.get();
}

// The servers of an upstream{} block have their own ports.
bool names_block_with_port(const ProxyUrl& url) {
    if (url.no_port || url.is_unix) return false;
    UpstreamGroup* block = upstream_groups().find(url.host, 0);
    return block && !block->implicit;
}

conf::Result<void> prepare(Configuration& configuration) {
    for (Location* location : configuration.locations) {
        auto& conf = const_cast<ProxyConf&>(location->conf<ProxyConf>(proxy));
        ProxyTarget& target = conf.target;
        if (!conf.tls) {
            auto checked = check_upstream_tls_scripts(*location);
            if (!checked) {
                return configuration.binder().error_at(location->place, checked.error().what);
            }
        }
        if (!target.is_fixed || target.group) continue;
        // Copies of a target show their own text.
        auto url = parse_proxy_url(target.fixed_text);
        if (!url) return url.take_error();
        target.fixed = std::move(*url);
        if (names_block_with_port(target.fixed)) {
            return configuration.binder().error_at(
                location->place, "upstream \"" + std::string(target.fixed.host) +
                                     "\" may not have port " + std::to_string(target.fixed.port));
        }
        target.group = group_of(target.fixed, location->place);
        if (target.group) {
            upstream_groups().targets.push_back(
                {location, target.group, &conf, target.fixed.tls});
        }
    }
    return {};
}

}  // namespace

Verdict handle_proxy(Request& request) {
    auto* run = request.arena.make<ProxyRun>(request, request.conf<ProxyConf>(proxy));
    request.set_state(proxy, run);
    return run->start();
}

const Module proxy{
    .name = "proxy",
    .conf = conf_with_merge<ProxyConf, merge_proxy>,
    .directives = proxy_directives,
    .variables = variables,
    .prepare = prepare,
    .has_request_state = true,
};
REGISTER_MODULE(proxy);

}  // namespace server
