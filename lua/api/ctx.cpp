// ngx.ctx: one table per request, kept in registry.ngx_lua_ctx_tables (lualib/resty/core/ctx.lua
// makes that table). Here is only the request's index into it; LuaVm::release_context() gives it
// back when the request ends or is redirected internally.
#include "lua/api/ffi.h"

namespace lua {
namespace {

// Where the index of the task's table is kept.
int& ctx_ref(LuaTask& task) {
    return task.request ? LuaRequest::of(*task.request).ctx_ref : task.ctx_ref;
}

}  // namespace
}  // namespace lua

// The index of the table, negative when there is none yet. Phases of the TLS handshake have none of
// their own so far.
LUA_FFI int ngx_http_lua_ffi_get_ctx_ref(ngx_http_request_t* r, int* in_ssl_phase,
                                         int* ssl_ctx_ref) {
    int ref = lua::ctx_ref(*r);
    if (ref >= 0 || !in_ssl_phase) return ref;
    *in_ssl_phase = 0;
    *ssl_ctx_ref = LUA_NOREF;
    return LUA_NOREF;
}

LUA_FFI int ngx_http_lua_ffi_set_ctx_ref(ngx_http_request_t* r, int ref) {
    lua::ctx_ref(*r) = ref;
    return lua::ffi_ok;
}
