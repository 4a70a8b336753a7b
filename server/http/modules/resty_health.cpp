// resty_health live | ready: what orchestrators ask. "live": this worker's loop turns. "ready": the
// server is up and is not about to stop. A worker that a reload replaces is still ready: its
// successors are there.
#include "server/http/request.h"
#include "server/status.h"
#include "server/worker.h"

namespace server {

namespace {

Verdict answer(Request& request, int status, core::Slice text) {
    if (request.method != Method::get && request.method != Method::head) {
        return Verdict::reject(405);
    }
    request.body.discard(request);
    return request.respond(status, "text/plain", text);
}

Verdict serve_live(Request& request) { return answer(request, 200, "live\n"); }

Verdict serve_ready(Request& request) {
    switch (shared_status().state.load(std::memory_order_relaxed)) {
        case ServerState::starting: return answer(request, 503, "starting\n");
        case ServerState::stopping: return answer(request, 503, "stopping\n");
        case ServerState::ready: break;
    }
    return answer(request, 200, "ready\n");
}

conf::Result<void> enable(void*, const conf::Line& line) {
    if (line.arg(0) == "live") return set_content_handler(line, serve_live);
    if (line.arg(0) == "ready") return set_content_handler(line, serve_ready);
    return conf::invalid_value(line, line.arg(0));
}

constexpr conf::Directive directives[] = {
    {"resty_health", conf::in_location, conf::takes(1), enable},
};

constinit const Module resty_health{
    .name = "resty_health",
    .directives = directives,
};
REGISTER_MODULE(resty_health);

}  // namespace

}  // namespace server
