// addition: what other locations answer, in front of a response and behind it.
#include "server/http/gzip_accept.h"
#include "server/http/request.h"
#include "server/http/subrequest.h"
#include "server/http/type_set.h"

namespace server {

namespace {

struct Conf {
    conf::Setting<std::string> before{""};
    conf::Setting<std::string> after{""};
    conf::Setting<TypeSet> types{TypeSet{"text/html"}};
};

extern const Module module_addition;

bool add(Request& request, const std::string& uri) {
    if (uri.empty()) return true;
    SubrequestOptions options;
    options.uri = uri;
    Request* child = create_postponed(request, options, nullptr, nullptr);
    if (child) start_subrequest(*child);
    return child != nullptr;
}

// The end of the response waits for one turn of the loop: what comes before it must have gone
// through the filters when the request behind it is begun.
struct State {
    explicit State(Request& of)
        : request(of), ending([](void* it) { static_cast<State*>(it)->end(); }, this) {}

    void end() {
        request.resume_body_filter(FilterSlot::addition, std::move(rest), Verdict::pass());
        if (request.output == Request::Output::broken) return;
        if (!add(request, *request.conf<Conf>(module_addition).after)) return request.cut();
        core::Chain last;
        last.add_mark(core::Buffer::last);
        request.resume_body_filter(FilterSlot::addition, std::move(last), Verdict::pass());
    }

    Request& request;
    core::Deferred ending;
    core::Chain rest;
    bool begun = false;
};

Verdict filter_header(Request& request) {
    const Conf& conf = request.conf<Conf>(module_addition);
    Response& response = request.response;
    if (request.parent || response.status != 200 || request.header_only ||
        request.method == Method::head || !conf.types->matches(request)) {
        return Verdict::pass();
    }
    request.set_state(module_addition, request.arena.make<State>(request));
    response.content_length = -1;
    response.allow_ranges = false;
    response.headers.remove(HeaderId::accept_ranges);
    weaken_etag(request);
    request.want_body(FilterSlot::addition);
    return Verdict::pass();
}

Verdict filter_body(Request& request, core::Chain& chain) {
    auto* state = request.state<State>(module_addition);
    if (!state || request.header_only) return Verdict::pass();
    const Conf& conf = request.conf<Conf>(module_addition);
    if (!state->begun) {
        state->begun = true;
        if (!add(request, *conf.before)) return Verdict::reject(500);
    }
    if (!chain.ends() || conf.after->empty()) return Verdict::pass();
    chain.tail()->flags &= uint8_t(~core::Buffer::last);
    state->rest = std::move(chain);
    core::Reactor::current().at_end(core::Reactor::work, state->ending);
    return Verdict::suspend();
}

constexpr conf::Directive directives[] = {
    {"add_before_body", conf::in_any_http, conf::takes(1), conf::field<&Conf::before>},
    {"add_after_body", conf::in_any_http, conf::takes(1), conf::field<&Conf::after>},
    {"addition_types", conf::in_any_http, conf::takes_at_least(1), conf::field<&Conf::types>},
};

constexpr Filter filters[] = {
    {FilterSlot::addition, filter_header, filter_body,
     [](const void* it) {
         const auto& conf = *static_cast<const Conf*>(it);
         return !conf.before->empty() || !conf.after->empty();
     }},
};

constinit const Module module_addition{
    .name = "http_addition",
    .conf = conf_of<Conf>,
    .directives = directives,
    .filters = filters,
    .has_request_state = true,
};
REGISTER_MODULE(module_addition);

}  // namespace

}  // namespace server
