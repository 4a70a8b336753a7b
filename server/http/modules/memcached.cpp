// memcached_pass: answers a request with what memcached holds under $memcached_key. How a server is
// chosen and reached is upstream/session's; this speaks the text protocol's "get".
#include <cstring>

#include "conf/binder.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/escape.h"
#include "server/http/request.h"
#include "server/http/variables.h"
#include "server/upstream/session.h"
#include "server/upstream/settings.h"
#include "server/upstream/target.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Slice;

struct Conf : UpstreamSettings {
    Conf() { buffering.value = false; }

    ComplexValue pass;
    bool is_set = false;
    int key = -1;                  // $memcached_key
    Setting<int64_t> gzip_flag{0};
};

extern const Module module_memcached;

constexpr Slice value_end = "\r\nEND\r\n";

class MemcachedRun final : public UpstreamProtocol {
  public:
    MemcachedRun(Request& of, const Conf& with)
        : request_(of), conf_(with), session_(of, with, *this), no_fields_(of.arena) {}

    Verdict start();

    bool make_request(core::Chain& to) override;
    void frame_body(core::Chain&, bool) override {}
    void recreate() override {}
    void reset() override;
    Head read_head(Slice& bytes) override;
    int status() const override { return found_ ? 200 : 404; }
    bool wants_tunnel() const override { return false; }
    Verdict accept_head() override;
    Slice next_body(Slice& bytes) override;
    Body body_state() const override;
    Body body_closed() override;
    void body_complete() override {}
    bool keeps_connection() const override { return !bad_end_; }

  private:
    Head read_line(Slice line);
    Head read_value(Slice line, Slice rest);
    Head bad(const char* what, Slice line);

    Request& request_;
    const Conf& conf_;
    UpstreamSession session_;
    HeaderList no_fields_;
    Slice key_;
    bool found_ = false;
    bool is_gzip_ = false;
    bool bad_end_ = false;
    int64_t length_ = 0;
    int64_t left_ = 0;             // of the value
    size_t end_seen_ = 0;          // of what follows it
};

Verdict MemcachedRun::start() {
    session_.describe("memcached://", {});
    return start_at(session_, conf_.pass.evaluate(request_));
}

bool MemcachedRun::make_request(core::Chain& to) {
    Value key = variable(request_, conf_.key);
    if (!key.found || key.text.empty()) {
        LOG(request_.log, error, 0, "the \"$memcached_key\" variable is not set");
        return false;
    }
    key_ = escape(request_.arena, key.text, Escape::memcached);
    to.add_copy("get ");
    to.add_copy(key_);
    to.add_copy("\r\n");
    return true;
}

void MemcachedRun::reset() {
    found_ = is_gzip_ = bad_end_ = false;
    length_ = left_ = 0;
    end_seen_ = value_end.size();
    UpstreamRecord& record = upstream_record(request_);
    record.fields = &no_fields_;
    record.trailers = &no_fields_;
}

MemcachedRun::Head MemcachedRun::bad(const char* what, Slice line) {
    LOG(session_.log(), error, 0, "memcached sent invalid %s in response \"%.*s\" for key \"%.*s\"",
        what, int(line.size()), line.data(), int(key_.size()), key_.data());
    return Head::invalid;
}

// "VALUE KEY FLAGS LENGTH"; `rest` begins behind the first word.
MemcachedRun::Head MemcachedRun::read_value(Slice line, Slice rest) {
    if (!rest.starts_with(key_)) return bad("key", line);
    rest.remove_prefix(key_.size());
    size_t space = rest.find(' ', 1);
    if (!rest.starts_with(' ') || space == Slice::npos) return bad("key", line);
    auto flags = core::parse_number(rest.substr(1, space - 1), UINT32_MAX);
    if (!flags && *conf_.gzip_flag) return bad("flags", line);
    auto length = core::parse_number(rest.substr(space + 1));
    if (!length) return bad("length", line);
    found_ = true;
    is_gzip_ = flags && (int64_t(*flags) & *conf_.gzip_flag);
    length_ = left_ = int64_t(*length);
    end_seen_ = 0;
    return Head::complete;
}

MemcachedRun::Head MemcachedRun::read_line(Slice line) {
    constexpr Slice value = "VALUE ";
    if (line.starts_with(value)) return read_value(line, line.substr(value.size()));
    if (line == "END") {
        LOG(session_.log(), info, 0, "key: \"%.*s\" was not found by memcached",
            int(key_.size()), key_.data());
        return Head::complete;
    }
    LOG(session_.log(), error, 0, "memcached sent invalid response: \"%.*s\"", int(line.size()),
        line.data());
    return Head::invalid;
}

MemcachedRun::Head MemcachedRun::read_head(Slice& bytes) {
    size_t end = bytes.find('\n');
    if (end == Slice::npos) return Head::incomplete;
    Slice line = bytes.substr(0, end);
    bytes.remove_prefix(end + 1);
    if (!line.ends_with('\r')) {
        LOG(session_.log(), error, 0, "memcached sent invalid response: \"%.*s\"",
            int(line.size()), line.data());
        return Head::invalid;
    }
    line.remove_suffix(1);
    return read_line(line);
}

Verdict MemcachedRun::accept_head() {
    if (!found_) return Verdict::reject(404);
    Response& response = request_.response;
    response.status = 200;
    response.content_length = length_;
    response.content_type = mime_type(request_);
    response.allow_ranges = true;
    if (is_gzip_) response.headers.set(HeaderId::content_encoding, "gzip");
    return Verdict::pass();
}

Slice MemcachedRun::next_body(Slice& bytes) {
    if (left_ > 0) {
        Slice run = bytes.substr(0, size_t(std::min<int64_t>(left_, int64_t(bytes.size()))));
        bytes.remove_prefix(run.size());
        left_ -= int64_t(run.size());
        return run;
    }
    Slice wanted = value_end.substr(end_seen_);
    Slice got = bytes.substr(0, wanted.size());
    if (!wanted.starts_with(got)) {
        LOG(session_.log(), error, 0, "memcached sent invalid trailer");
        bad_end_ = true;
        end_seen_ = value_end.size();
        bytes = {};
        return {};
    }
    bytes.remove_prefix(got.size());
    end_seen_ += got.size();
    return {};
}

MemcachedRun::Body MemcachedRun::body_state() const {
    return left_ == 0 && end_seen_ == value_end.size() ? Body::complete : Body::more;
}

MemcachedRun::Body MemcachedRun::body_closed() {
    bad_end_ = true;
    return left_ > 0 ? Body::bad : Body::complete;
}

Verdict handle(Request& request) {
    if (request.method != Method::get && request.method != Method::head) {
        return Verdict::reject(405);
    }
    request.body.discard(request);
    auto* run = request.arena.make<MemcachedRun>(request, request.conf<Conf>(module_memcached));
    return run->start();
}

// ---- configuration ----

Result<void> set_pass(Conf& conf, const Line& line) {
    if (conf.is_set) return conf::Error{"is duplicate"};
    auto pass = ComplexValue::compile(line.arg(0), line);
    if (!pass) return pass.take_error();
    conf.pass = std::move(*pass);
    conf.is_set = true;
    conf.key = Configuration::current().variables().use("memcached_key", line.node.place);
    Location* location = Configuration::current().binding_location;
    if (location && location->name.ends_with('/')) location->slash_redirect = true;
    return set_content_handler(line, handle);
}

Result<void> set_next(Conf& conf, const Line& line) {
    return read_next_upstream(conf.next_upstream, line);
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (outer) {
        conf.next_upstream.inherit(outer->next_upstream);
        if (!conf.is_set) {
            conf.pass = outer->pass;
            conf.key = outer->key;
        }
    }
    if (conf.next_upstream->has(NextUpstream::off)) {
        conf.next_upstream.value = conf::Choices<NextUpstream>(uint32_t(NextUpstream::off));
    }
    return {};
}

using conf::field;
constexpr uint32_t any = conf::in_any_http;
constexpr conf::Directive directives[] = {
    {"memcached_pass", conf::in_location | conf::in_location_if, conf::takes(1),
     conf::call<set_pass>},
    {"memcached_bind", any, conf::takes(1, 2), field<&Conf::bind>},
    {"memcached_socket_keepalive", any, conf::takes_flag(), field<&Conf::socket_keepalive>},
    {"memcached_connect_timeout", any, conf::takes(1), field<&Conf::connect_timeout>},
    {"memcached_send_timeout", any, conf::takes(1), field<&Conf::send_timeout>},
    {"memcached_buffer_size", any, conf::takes(1), field<&Conf::buffer_size>},
    {"memcached_read_timeout", any, conf::takes(1), field<&Conf::read_timeout>},
    {"memcached_next_upstream", any, conf::takes_at_least(1), conf::call<set_next>},
    {"memcached_next_upstream_tries", any, conf::takes(1), field<&Conf::next_tries>},
    {"memcached_next_upstream_timeout", any, conf::takes(1), field<&Conf::next_timeout>},
    {"memcached_gzip_flag", any, conf::takes(1), field<&Conf::gzip_flag>},
};

constinit const Module module_memcached{
    .name = "http_memcached",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
};
REGISTER_MODULE(module_memcached);

}  // namespace

}  // namespace server
