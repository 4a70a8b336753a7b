// How an API file joins in. C functions that yield or work on the stack are listed in a table:
//
//   int sleep(lua_State* L) { return await<Sleep>(L, …); }
//   constexpr LuaFunction functions[] = {{"ngx.sleep", sleep, in_yieldable}};
//   REGISTER_LUA_API(sleep, functions);
//
// Functions that do neither are FFI: upstream's exported name and signature, called from
// lualib/resty/core/TOPIC.lua (required by lualib/resty/core.lua when a VM is made):
//
//   LUA_FFI int ngx_http_lua_ffi_get_resp_status(ngx_http_request_t* r) { … r->request … }
//
// Phases are checked centrally for C functions: with `lua_compat openresty` a call outside its mask
// raises "API disabled in the context of …"; otherwise it is allowed wherever it can work. FFI
// functions ask allowed() themselves and return ffi_bad_context. Errors: luaL_error for the
// programmer's fault, `nil, "text"` for the peer's. Functions that may raise are never noexcept and
// hold nothing across the raise but C++ objects with destructors.
#pragma once

#include <span>

#include "lua/phase.h"
#include "lua/thread.h"

// What upstream's FFI prototypes call a request is our LuaTask.
using ngx_http_request_t = lua::LuaTask;
struct ngx_str_t { size_t len; unsigned char* data; };
struct ngx_http_lua_ffi_str_t { int len; unsigned char* data; };
struct ngx_http_lua_ffi_table_elt_t { ngx_http_lua_ffi_str_t key, value; };

#define LUA_FFI extern "C" [[gnu::visibility("default"), gnu::used]]

namespace lua {

// What FFI functions return (NGX_OK …).
constexpr int ffi_ok = 0, ffi_error = -1, ffi_again = -2, ffi_busy = -3, ffi_done = -4,
              ffi_declined = -5, ffi_abort = -6, ffi_no_req_ctx = -100, ffi_bad_context = -101;

struct LuaFunction {
    const char* name;              // "ngx.thread.spawn": tables on the way are made
    lua_CFunction function;
    PhaseMask phases = in_all;
};

// A topic. `install` runs once per VM, after the functions of all topics are in place and before
// resty.core is loaded, on an empty stack; it may set constants, metatables and package.preload.
struct LuaApi {
    const char* name;
    std::span<const LuaFunction> functions;
    void (*install)(lua_State* L) = nullptr;
};

struct LuaApiRegistration {
    explicit LuaApiRegistration(const LuaApi& api);
};
// REGISTER_LUA_API(topic, functions[, install])
#define REGISTER_LUA_API(topic, ...)                                  \
    static const ::lua::LuaApi topic##_lua_api{#topic, __VA_ARGS__};  \
    static const ::lua::LuaApiRegistration topic##_lua_api_registration { topic##_lua_api }

std::span<const LuaApi* const> lua_apis();

// `lua_compat openresty` is set.
bool compat_openresty();
void set_compat_openresty(bool on);
// May a call with this mask be made in the task's phase?
inline bool allowed(const LuaTask& task, PhaseMask phases) {
    return (task.phase_bit() & phases) || !compat_openresty();
}
// Upstream's refusal, into the buffer of an FFI call; *length is the room, then the length.
int ffi_refuse(const LuaTask& task, unsigned char* text, size_t* length);
// The same raised from a C function.
int refuse(lua_State* L, const LuaTask& task);

// Strings between Lua and slices. The slice of a Lua string lives as long as the string does.
inline core::Slice check_slice(lua_State* L, int index) {
    size_t size;
    const char* text = luaL_checklstring(L, index, &size);
    return {text, size};
}
inline void push_slice(lua_State* L, core::Slice text) {
    lua_pushlstring(L, text.data(), text.size());
}
inline void give(ngx_str_t& to, core::Slice text) {
    to = {text.size(), reinterpret_cast<unsigned char*>(const_cast<char*>(text.data()))};
}

}  // namespace lua
