// When a request began, finer than Request::start_ms: for the module that measures how long they
// take. Protocols (h1) note it as they make a request; without such a module that is one test.
#pragma once

#include <cstdint>

#include "core/ticks.h"
#include "server/http/request.h"

namespace server {

// The module whose state of a request is that moment (core::Ticks); null: nobody measures.
inline const Module* request_timer = nullptr;

inline void note_request_start(Request& request) {
    if (!request_timer) return;
    request.set_state(*request_timer, reinterpret_cast<void*>(core::Ticks::now()));
}
inline uint64_t request_start(const Request& request, const Module& module) {
    return reinterpret_cast<uint64_t>(request.state<void>(module));
}

}  // namespace server
