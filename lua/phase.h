// The contexts Lua code runs in, with upstream's numbers: Lua code in the wild compares them, and
// an API call states those it is allowed in as a mask. Read by the scheduler and every API file.
#pragma once

#include <cstdint>

namespace lua {

enum class LuaPhase : uint32_t {
    init = 0,                     // init_by_lua: no task, no request
    set = 0x1,
    rewrite = 0x2,
    access = 0x4,
    content = 0x8,
    log = 0x10,
    header_filter = 0x20,
    body_filter = 0x40,
    timer = 0x80,
    init_worker = 0x100,
    balancer = 0x200,
    ssl_cert = 0x400,
    ssl_session_store = 0x800,
    ssl_session_fetch = 0x1000,
    exit_worker = 0x2000,
    ssl_client_hello = 0x4000,
    server_rewrite = 0x8000,
    proxy_ssl_verify = 0x10000,
    precontent = 0x20000,
    proxy_ssl_cert = 0x40000,
};

using PhaseMask = uint32_t;

template <class... Phases>
constexpr PhaseMask in(Phases... phases) { return (uint32_t(phases) | ...); }

// Sets of phases that API calls have in common.
constexpr PhaseMask in_all = ~0u;
constexpr PhaseMask in_ssl = in(LuaPhase::ssl_cert, LuaPhase::ssl_session_fetch,
                                LuaPhase::ssl_client_hello, LuaPhase::proxy_ssl_cert,
                                LuaPhase::proxy_ssl_verify);
// Where OpenResty lets code yield.
constexpr PhaseMask in_yieldable =
    in(LuaPhase::server_rewrite, LuaPhase::rewrite, LuaPhase::access, LuaPhase::precontent,
       LuaPhase::content, LuaPhase::timer) | in_ssl;
// Where there is a request that can still be answered.
constexpr PhaseMask in_answering =
    in(LuaPhase::server_rewrite, LuaPhase::rewrite, LuaPhase::access, LuaPhase::precontent,
       LuaPhase::content);
constexpr PhaseMask in_filters = in(LuaPhase::header_filter, LuaPhase::body_filter);
// Every phase that has a request.
constexpr PhaseMask in_request =
    in_answering | in_filters | in(LuaPhase::set, LuaPhase::log, LuaPhase::balancer);

// "rewrite_by_lua*": upstream's name in "API disabled in the context of …".
const char* context_name(LuaPhase phase);

}  // namespace lua
