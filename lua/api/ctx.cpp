// ngx.ctx: one table per request, kept in registry.ngx_lua_ctx_tables (lualib/resty/core/ctx.lua
// makes that table). Here is only the request's index into it; LuaVm::release_context() gives it
// back when the request ends or is redirected internally.
#include "lua/api/ctx.h"

#include <utility>

#include "lua/api/ffi.h"
#include "lua/handshake_by_lua.h"
#include "server/module.h"

namespace lua {
namespace {

// A request's newest LuaRequest that has lua_ctx_inherit; an internal redirect forgets the one of
// the Lua module, which stays in the request's arena.
constinit const server::Module lua_ctx{.name = "lua_ctx",
                                       .has_request_state = true,
                                       .state_outlives_redirects = true};
REGISTER_MODULE(lua_ctx);

// Where the index of the task's table is kept.
int& ctx_ref(LuaTask& task) {
    if (task.request) return LuaRequest::of(*task.request).ctx_ref;
    int* shared = handshake_ctx_ref(task);
    return shared ? *shared : task.ctx_ref;
}

}  // namespace

void inherit_context(LuaRequest& fresh) {
    server::Request& request = fresh.request;
    if (auto* before = request.state<LuaRequest>(lua_ctx)) {
        fresh.ctx_ref = std::exchange(before->ctx_ref, LUA_NOREF);
        fresh.vm = std::exchange(before->vm, nullptr);     // its table is in that machine
    }
    request.set_state(lua_ctx, &fresh);
}

}  // namespace lua

// The index of the table, negative when there is none yet: then also whether this is a script of a
// TLS handshake, and the index of the table that such scripts have left for this request.
LUA_FFI int ngx_http_lua_ffi_get_ctx_ref(ngx_http_request_t* r, int* in_ssl_phase,
                                         int* ssl_ctx_ref) {
    int ref = lua::ctx_ref(*r);
    if (ref >= 0 || !in_ssl_phase) return ref;
    *in_ssl_phase = lua::handshake_of(*r) != nullptr;
    *ssl_ctx_ref = r->request ? lua::inherited_ctx_ref(*r) : LUA_NOREF;
    return LUA_NOREF;
}

LUA_FFI int ngx_http_lua_ffi_set_ctx_ref(ngx_http_request_t* r, int ref) {
    lua::ctx_ref(*r) = ref;
    return lua::ffi_ok;
}
