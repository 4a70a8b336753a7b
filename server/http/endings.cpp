// auth_delay and post_action. The latter is a captured subrequest whose response is thrown away: it
// sees what the client's request answered ($status, $body_bytes_sent), and the log remains that of
// the client's request.
#include "server/http/endings.h"

#include "core/timer.h"
#include "server/http/core_conf.h"
#include "server/http/request.h"
#include "server/http/subrequest.h"

namespace server {

namespace {

struct Delay {
    explicit Delay(Request& delayed) : request(delayed), timer(over, this) {}

    static void over(void* self) {
        Request& request = static_cast<Delay*>(self)->request;
        request.on_abort = nullptr;
        request.phase = Phase::content;      // what is refused here is final
        request.resume(Verdict::reject(401));
    }

    Request& request;
    core::Timer timer;
};

}  // namespace

Verdict delay_unauthorized(Request& request) {
    LOG(request.log, info, 0, "delaying unauthorized request");
    auto* delay = request.arena.make<Delay>(request);
    delay->timer.set(request.core().auth_delay->count);
    request.on_abort = [](Request&, void* it) { static_cast<Delay*>(it)->timer.set(0); };
    request.on_abort_argument = delay;
    return Verdict::suspend();
}

namespace {

struct Action {
    explicit Action(Request& run, const std::string& to)
        : child(run), target(to), start([](void* it) { static_cast<Action*>(it)->begin(); }, this) {
    }

    void begin() {
        if (target[0] == '/') return child.start();
        child.location = &child.server->root;
        child.resume(child.named_location(target));
    }

    Request& child;
    const std::string& target;
    core::Deferred start;
};

void action_done(Request& child, void*) { child.parent->resume_log(); }

}  // namespace

bool has_post_action(const void* conf) {
    const std::string& target = *static_cast<const CoreConf*>(conf)->post_action;
    return !target.empty() && target != "off";
}

Verdict run_post_action(Request& request) {
    if (request.parent) return Verdict::decline();
    SubrequestOptions options;
    const std::string& target = *request.core().post_action;
    options.uri = target[0] == '/' ? core::Slice(target) : request.uri;
    options.args = target[0] == '/' ? core::Slice{} : request.args;
    options.method = request.method;
    options.method_name = request.head.method_name;
    Request* child = create_capture(request, options, action_done, nullptr);
    if (!child) return Verdict::decline();
    child->header_only = true;
    child->response.status = request.error_status ? request.error_status : request.response.status;
    child->bytes_sent = request.bytes_sent;
    child->body_bytes_sent = request.body_bytes_sent;
    auto* action = child->arena.make<Action>(*child, target);
    core::Reactor::current().at_end(core::Reactor::work, action->start);
    return Verdict::suspend();
}

}  // namespace server
