// mirror: sends copies of a request to other locations, whose answers nobody sees. The client's
// response does not wait for them; the end of its request, and so the next one on its connection,
// does.
#include "server/http/core_conf.h"
#include "server/http/request.h"
#include "server/http/subrequest.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;

struct Conf {
    std::vector<std::string> targets;
    bool off = false;
    conf::Setting<bool> with_body{true};
};

extern const Module module_mirror;

Verdict send_copies(Request& request) {
    const Conf& conf = request.conf<Conf>(module_mirror);
    for (const std::string& target : conf.targets) {
        SubrequestOptions options;
        options.uri = target;
        options.args = request.args;
        options.method = request.method;
        options.method_name = request.head.method_name;
        options.inherit_body = conf.with_body;
        Request* child = create_capture(request, options, nullptr, nullptr);
        if (!child) return Verdict::reject(500);
        child->header_only = true;
        start_subrequest(*child);
    }
    return Verdict::decline();
}

void body_read(Request& request, void*, Verdict verdict) {
    request.resume(verdict.is(Verdict::rejected) ? verdict : send_copies(request));
}

Verdict mirror(Request& request) {
    if (request.parent) return Verdict::decline();
    const Conf& conf = request.conf<Conf>(module_mirror);
    if (!conf.with_body || request.body.complete()) return send_copies(request);
    RequestBody::Options options;
    options.in_single_buffer = request.core().client_body_in_single_buffer;
    Verdict read = request.body.read(request, options, body_read, nullptr);
    return read.is(Verdict::passed) ? send_copies(request) : read;
}

bool is_on(const void* conf) { return !static_cast<const Conf*>(conf)->targets.empty(); }

// ---- configuration ----

Result<void> add_target(Conf& conf, const Line& line) {
    if (conf.off || (line.arg(0) == "off" && !conf.targets.empty())) {
        return conf::Error{"is duplicate"};
    }
    if (line.arg(0) == "off") {
        conf.off = true;
    } else {
        conf.targets.emplace_back(line.arg(0));
    }
    return {};
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    conf.with_body.inherit(outer->with_body);
    if (!conf.off && conf.targets.empty()) conf.targets = outer->targets;
    return {};
}

constexpr conf::Directive directives[] = {
    {"mirror", conf::in_any_http, conf::takes(1), conf::call<add_target>},
    {"mirror_request_body", conf::in_any_http, conf::takes_flag(), conf::field<&Conf::with_body>},
};

constexpr PhaseHandler handlers[] = {{Phase::precontent, rank::normal, mirror, is_on}};

constinit const Module module_mirror{
    .name = "http_mirror",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .handlers = handlers,
};
REGISTER_MODULE(module_mirror);

}  // namespace

}  // namespace server
