// A request's birth and death, and its small helpers.
#include "server/http/request.h"

#include <cstring>
#include <new>

#include "core/clock.h"
#include "core/text.h"
#include "server/http/connection.h"
#include "server/http/core_conf.h"
#include "server/http/exchange.h"
#include "server/http/subrequest.h"

namespace server {

namespace {

struct MethodName {
    core::Slice name;
    Method method;
};
constexpr MethodName methods[] = {
    {"GET", Method::get},           {"HEAD", Method::head},
    {"POST", Method::post},         {"PUT", Method::put},
    {"DELETE", Method::delete_},    {"MKCOL", Method::mkcol},
    {"COPY", Method::copy},         {"MOVE", Method::move},
    {"OPTIONS", Method::options},   {"PROPFIND", Method::propfind},
    {"PROPPATCH", Method::proppatch}, {"LOCK", Method::lock},
    {"UNLOCK", Method::unlock},     {"PATCH", Method::patch},
    {"TRACE", Method::trace},       {"CONNECT", Method::connect},
};

}  // namespace

Method parse_method(core::Slice name) {
    for (const auto& known : methods) {
        if (known.name == name) return known.method;
    }
    return Method::unknown;
}

core::Slice method_name(Method method) {
    for (const auto& known : methods) {
        if (known.method == method) return known.name;
    }
    return {};
}

bool Response::is_type_of(core::Slice type) const {
    core::Slice own = content_type.substr(0, content_type.find(';'));
    return core::iequals(core::trim(own), type);
}

Request::Request(core::Arena& memory, Exchange& by, Connection& on, VirtualServer& of)
    : connection(on),
      exchange(&by),
      main(this),
      headers(arena),
      trailers(arena),
      server(&of),
      location(&of.root),
      response(arena),
      drain_call_([](void* it) { static_cast<Request*>(it)->drained(); }, this) {
    arena.take(memory);
    size_t count = request_state_count();
    states_ = arena.make_array<void*>(count);
    std::memset(states_, 0, sizeof(void*) * count);
}

Request::~Request() {
    while (!children.empty()) destroy(&children.front());
    unlink();
}

Request* Request::create(Exchange& exchange, Connection& connection, VirtualServer& server) {
    core::Arena memory;
    void* room = memory.allocate(sizeof(Request), alignof(Request));
    return ::new (room) Request(memory, exchange, connection, server);
}

Request* Request::create_subrequest(Request& parent, Exchange& exchange) {
    Request* child = create(exchange, parent.connection, *parent.server);
    child->parent = &parent;
    child->main = parent.main;
    child->subrequest_depth_left = uint8_t(parent.subrequest_depth_left - 1);
    child->internal = true;
    child->log = parent.log;
    child->start_ms = core::Clock::wall_ms();
    parent.children.push_back(*child);
    return child;
}

void Request::destroy(Request* request) {
    request->arena.run_destructors();
    core::Arena memory;
    memory.take(request->arena);
    request->~Request();
}

void Request::clear_states() {
    for (const Module* module : modules()) {
        if (module->has_request_state && !module->state_outlives_redirects) {
            states_[module->state_index] = nullptr;
        }
    }
}

}  // namespace server
