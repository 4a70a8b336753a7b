// ndk.set_var: the functions behind set_escape_uri and its kind. lualib/resty/core/ndk.lua calls
// these.
#include <string>

#include "lua/api/ffi.h"
#include "server/http/request.h"
#include "server/http/text_functions.h"

using ndk_set_var_value_pt = void*;

namespace lua {
namespace {

void install(lua_State* L) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaded");
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setglobal(L, "ndk");
    lua_setfield(L, -2, "ndk");
    lua_pop(L, 2);
}

REGISTER_LUA_API(ndk, {}, install);

// The value stays until the next call; Lua copies it at once.
int call_without_request(LuaTask& task, const void* function, core::Slice argument,
                         ngx_http_lua_ffi_str_t& value) {
    static std::string kept;
    core::Arena arena;
    server::Value result;
    if (!server::text_functions->call(arena, task.log(), nullptr, function, argument, result)) {
        return ffi_error;
    }
    kept = result.text;
    give(value, kept);
    return ffi_ok;
}

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_ndk_lookup_directive(const unsigned char* var_data, size_t var_len,
                                                  ndk_set_var_value_pt* func) {
    const void* found = nullptr;
    if (server::text_functions) {
        found = server::text_functions->find(lua::slice(var_data, var_len));
    }
    *func = const_cast<void*>(found);
    return found ? lua::ffi_ok : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_ndk_set_var_get(ngx_http_request_t* r, ndk_set_var_value_pt func,
                                             const unsigned char* arg_data, size_t arg_len,
                                             ngx_http_lua_ffi_str_t* value) {
    if (!r->request) {
        return lua::call_without_request(*r, func, lua::slice(arg_data, arg_len), *value);
    }
    server::Request& request = *r->request;
    core::Slice argument = request.arena.copy(lua::slice(arg_data, arg_len));
    server::Value result;
    if (!server::text_functions->call(request.arena, request.log, &request, func, argument,
                                      result)) {
        return lua::ffi_error;
    }
    lua::give(*value, result.text);
    return lua::ffi_ok;
}
