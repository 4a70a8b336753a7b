// The stub_status module: how many connections and requests the server has, as a page and as
// variables.
#include <cstdio>

#include "server/http/request.h"
#include "server/worker.h"

namespace server {

namespace {

Verdict serve(Request& request) {
    if (request.method != Method::get && request.method != Method::head) {
        return Verdict::reject(405);
    }
    request.body.discard(request);
    StatusTotals now = status_totals();
    constexpr size_t room_bytes = 320;
    char* room = request.arena.bytes(room_bytes);
    int size = std::snprintf(room, room_bytes,
                             "Active connections: %lld \n"
                             "server accepts handled requests\n"
                             " %llu %llu %llu \n"
                             "Reading: %lld Writing: %lld Waiting: %lld \n",
                             (long long)now.active, (unsigned long long)now.accepted,
                             (unsigned long long)now.handled, (unsigned long long)now.requests,
                             (long long)now.reading, (long long)now.writing,
                             (long long)now.waiting);
    return request.respond(200, "text/plain", {room, size_t(size)});
}

conf::Result<void> enable(void*, const conf::Line& line) {
    // nginx takes it in server too, where it has no effect: content handlers are not inherited.
    if (line.context == conf::in_server) return {};
    return set_content_handler(line, serve);
}

enum Counter : uintptr_t { active, reading, writing, waiting };

Value counter(Request& request, core::Slice, uintptr_t which) {
    StatusTotals now = status_totals();
    int64_t value = which == active    ? now.active
                    : which == reading ? now.reading
                    : which == writing ? now.writing
                                       : now.waiting;
    core::Appender to(request.arena, 24);
    to.append_number(value);
    return to.take();
}

constexpr Variable variables[] = {
    {"connections_active", counter, Variable::volatile_, active},
    {"connections_reading", counter, Variable::volatile_, reading},
    {"connections_writing", counter, Variable::volatile_, writing},
    {"connections_waiting", counter, Variable::volatile_, waiting},
};

constexpr conf::Directive directives[] = {
    {"stub_status", conf::in_server | conf::in_location, conf::takes(0, 1), enable},
};

constinit const Module stub_status{
    .name = "stub_status",
    .directives = directives,
    .variables = variables,
};
REGISTER_MODULE(stub_status);

}  // namespace

}  // namespace server
