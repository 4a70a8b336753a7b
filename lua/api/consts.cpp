// ngx's constants: return codes, methods, statuses, log levels, ngx.null.
#include "lua/api.h"
#include "server/config.h"

namespace lua {
namespace {

struct Constant {
    const char* name;
    int value;
};

constexpr Constant constants[] = {
    {"OK", 0}, {"AGAIN", -2}, {"DONE", -4}, {"DECLINED", -5}, {"ERROR", -1},
    // methods, as bits
    {"HTTP_GET", 0x2}, {"HTTP_HEAD", 0x4}, {"HTTP_POST", 0x8}, {"HTTP_PUT", 0x10},
    {"HTTP_DELETE", 0x20}, {"HTTP_MKCOL", 0x40}, {"HTTP_COPY", 0x80}, {"HTTP_MOVE", 0x100},
    {"HTTP_OPTIONS", 0x200}, {"HTTP_PROPFIND", 0x400}, {"HTTP_PROPPATCH", 0x800},
    {"HTTP_LOCK", 0x1000}, {"HTTP_UNLOCK", 0x2000}, {"HTTP_PATCH", 0x4000},
    {"HTTP_TRACE", 0x8000}, {"HTTP_CONNECT", 0x10000},
    // statuses
    {"HTTP_CONTINUE", 100}, {"HTTP_SWITCHING_PROTOCOLS", 101}, {"HTTP_OK", 200},
    {"HTTP_CREATED", 201}, {"HTTP_ACCEPTED", 202}, {"HTTP_NO_CONTENT", 204},
    {"HTTP_PARTIAL_CONTENT", 206}, {"HTTP_SPECIAL_RESPONSE", 300},
    {"HTTP_MOVED_PERMANENTLY", 301}, {"HTTP_MOVED_TEMPORARILY", 302}, {"HTTP_SEE_OTHER", 303},
    {"HTTP_NOT_MODIFIED", 304}, {"HTTP_TEMPORARY_REDIRECT", 307},
    {"HTTP_PERMANENT_REDIRECT", 308}, {"HTTP_BAD_REQUEST", 400}, {"HTTP_UNAUTHORIZED", 401},
    {"HTTP_PAYMENT_REQUIRED", 402}, {"HTTP_FORBIDDEN", 403}, {"HTTP_NOT_FOUND", 404},
    {"HTTP_NOT_ALLOWED", 405}, {"HTTP_NOT_ACCEPTABLE", 406}, {"HTTP_REQUEST_TIMEOUT", 408},
    {"HTTP_CONFLICT", 409}, {"HTTP_GONE", 410}, {"HTTP_UPGRADE_REQUIRED", 426},
    {"HTTP_TOO_MANY_REQUESTS", 429}, {"HTTP_CLOSE", 444}, {"HTTP_ILLEGAL", 451},
    {"HTTP_INTERNAL_SERVER_ERROR", 500}, {"HTTP_NOT_IMPLEMENTED", 501},
    {"HTTP_METHOD_NOT_IMPLEMENTED", 501}, {"HTTP_BAD_GATEWAY", 502},
    {"HTTP_SERVICE_UNAVAILABLE", 503}, {"HTTP_GATEWAY_TIMEOUT", 504},
    {"HTTP_VERSION_NOT_SUPPORTED", 505}, {"HTTP_INSUFFICIENT_STORAGE", 507},
    // log levels
    {"STDERR", 0}, {"EMERG", 1}, {"ALERT", 2}, {"CRIT", 3}, {"ERR", 4}, {"WARN", 5},
    {"NOTICE", 6}, {"INFO", 7}, {"DEBUG", 8},
};

// ngx._phase_ctx(): the phase's number, for Lua code that knew it before ngx.get_phase.
int phase_context(lua_State* L) {
    const LuaTask* task = find_task(L);
    if (!task) return 0;
    lua_pushinteger(L, lua_Integer(task->phase));
    return 1;
}

void install(lua_State* L) {
    lua_getglobal(L, "ngx");
    for (const Constant& constant : constants) {
        lua_pushinteger(L, constant.value);
        lua_setfield(L, -2, constant.name);
    }
    lua_pushlightuserdata(L, nullptr);
    lua_setfield(L, -2, "null");
    lua_pushcfunction(L, phase_context);
    lua_setfield(L, -2, "_phase_ctx");
    lua_getfield(L, -1, "config");       // which upstream's resty.core checks
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_createtable(L, 0, 8);
    }
    lua_pushliteral(L, "http");
    lua_setfield(L, -2, "subsystem");
    lua_pushinteger(L, 10030);
    lua_setfield(L, -2, "ngx_lua_version");
    lua_pushinteger(L, 1029008);
    lua_setfield(L, -2, "nginx_version");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "debug");
    lua_setfield(L, -2, "config");
}

REGISTER_LUA_API(consts, {}, install);

}  // namespace
}  // namespace lua
