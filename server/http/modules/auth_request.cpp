// auth_request: asks another location whether the request may go on. 2xx lets it pass, 401 and 403
// refuse it, the rest is an error. auth_request_set then gives variables values of that answer.
#include "server/http/core_conf.h"
#include "server/http/request.h"
#include "server/http/subrequest.h"
#include "server/http/variables.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;

struct Assignment {
    int variable;
    ComplexValue value;           // evaluated on the subrequest's behalf
};

struct Conf {
    conf::Setting<std::string> uri{""};
    std::vector<Assignment> assignments;
};

extern const Module module_auth_request;

void copy_challenges(Request& request, Request& child) {
    for (const Header& field : child.response.headers) {
        if (field.removed || field.id != HeaderId::www_authenticate) continue;
        request.response.headers.add(field.name, field.value, field.id);
    }
}

void assign(Request& request, Request& child) {
    for (const Assignment& one : request.conf<Conf>(module_auth_request).assignments) {
        set_variable(request, one.variable, one.value.evaluate(child));
    }
}

Verdict judge(Request& request, Request& child) {
    int status = captured(child).status;
    if (status == 403) return Verdict::reject(status);
    if (status == 401) {
        copy_challenges(request, child);
        return Verdict::reject(status);
    }
    if (status >= 200 && status < 300) return Verdict::pass();
    LOG(request.log, error, 0, "auth request unexpected status: %d", status);
    return Verdict::reject(500);
}

void answered(Request& child, void*) {
    Request& request = *child.parent;
    assign(request, child);
    request.resume(judge(request, child));
}

Verdict ask(Request& request) {
    const Conf& conf = request.conf<Conf>(module_auth_request);
    SubrequestOptions options;
    options.uri = *conf.uri;
    options.inherit_body = false;
    Request* child = create_capture(request, options, answered, nullptr);
    if (!child) return Verdict::reject(500);
    child->plain_refusals = false;          // its fields are wanted, error pages hold for it
    child->header_only = true;
    start_subrequest(*child);
    return Verdict::suspend();
}

bool is_on(const void* conf) { return !static_cast<const Conf*>(conf)->uri->empty(); }

// ---- configuration ----

Result<void> set_uri(Conf& conf, const Line& line) {
    if (conf.uri.is_set) return conf::Error{"is duplicate"};
    conf.uri.set(line.arg(0) == "off" ? std::string() : std::string(line.arg(0)));
    return {};
}

Result<void> add_assignment(Conf& conf, const Line& line) {
    auto name = variable_name(line.arg(0));
    if (!name) return name.take_error();
    auto index = Configuration::current().variables().define_capture(*name);
    if (!index) return index.take_error();
    auto value = ComplexValue::compile(line.arg(1), line);
    if (!value) return value.take_error();
    conf.assignments.push_back({*index, std::move(*value)});
    return {};
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    conf.uri.inherit(outer->uri);
    if (conf.assignments.empty()) conf.assignments = outer->assignments;
    return {};
}

constexpr conf::Directive directives[] = {
    {"auth_request", conf::in_any_http, conf::takes(1), conf::call<set_uri>},
    {"auth_request_set", conf::in_any_http, conf::takes(2), conf::call<add_assignment>},
};

constexpr PhaseHandler handlers[] = {{Phase::access, rank::late, ask, is_on}};

constinit const Module module_auth_request{
    .name = "http_auth_request",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .handlers = handlers,
};
REGISTER_MODULE(module_auth_request);

}  // namespace

}  // namespace server
