// ngx.exec, ngx.redirect, ngx.on_abort: calls that send the request elsewhere or say what happens
// when the client leaves. (ngx.exit is FFI: exit.cpp.)
#include "core/text.h"
#include "lua/api.h"
#include "lua/api/args.h"
#include "lua/conf.h"
#include "lua/op.h"
#include "server/http/uri.h"

namespace lua {

core::Slice join_args(core::Arena& arena, core::Slice own, core::Slice more) {
    if (own.empty() || more.empty()) return own.empty() ? more : own;
    core::Appender joined(arena, own.size() + more.size() + 1);
    joined.append(own);
    joined.append('&');
    joined.append(more);
    return joined.take();
}

namespace {

using server::Request;

int stop(lua_State* L, LuaTask& task, TaskEnd how, int status) {
    waiting_thread(L);
    task.stop(how, status);
    return lua_yield(L, 0);
}

// The second argument of ngx.exec: text or a table.
core::Slice given_args(lua_State* L, Request& request) {
    switch (lua_type(L, 2)) {
    case LUA_TNUMBER:
    case LUA_TSTRING: return request.arena.copy(check_slice(L, 2));
    case LUA_TTABLE: return request.arena.copy(encoded_args(L, 2));
    case LUA_TNIL:
    case LUA_TNONE: return {};
    }
    const char* why = lua_pushfstring(L, "string, number, or table expected, but got %s",
                                      luaL_typename(L, 2));
    luaL_argerror(L, 2, why);
    return {};
}

int exec(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1 && count != 2)
        return luaL_error(L, "expecting one or two arguments, but got %d", count);
    Request& request = request_of(L);
    LuaTask& task = task_of(L);
    core::Slice uri = check_slice(L, 1);
    if (uri.empty()) return luaL_error(L, "The uri argument is empty");
    if (task.abort_refused) return luaL_error(L, "attempt to abort with pending subrequests");
    core::Slice args;
    uri = request.arena.copy(uri);
    if (!server::split_internal_uri(request.arena, uri, args)) return luaL_error(L, "unsafe uri");
    args = join_args(request.arena, args, given_args(L, request));
    if (request.output != Request::Output::none)
        return luaL_error(L, "attempt to call ngx.exec after sending out response headers");
    task.exec_uri = uri;
    task.exec_args = args;
    return stop(L, task, TaskEnd::executed, 0);
}

// Control bytes and spaces would end the header field or the line it is in.
const char* find_unsafe_byte(core::Slice uri) {
    for (const char& c : uri)
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return &c;
    return nullptr;
}

std::string escaped_for_log(core::Slice text) {
    std::string escaped;
    static const char digits[] = "0123456789ABCDEF";
    for (unsigned char c : text) {
        if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
            escaped += char(c);
        } else {
            escaped.append("\\x").append(1, digits[c >> 4]).append(1, digits[c & 15]);
        }
    }
    return escaped;
}

bool is_redirect(int status) {
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

int redirect(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1 && count != 2) return luaL_error(L, "expecting one or two arguments");
    core::Slice uri = check_slice(L, 1);
    int status = count == 2 ? int(luaL_checknumber(L, 2)) : 302;
    if (!is_redirect(status)) {
        return luaL_error(L, "only ngx.HTTP_MOVED_TEMPORARILY, ngx.HTTP_MOVED_PERMANENTLY, "
                             "ngx.HTTP_PERMANENT_REDIRECT, ngx.HTTP_SEE_OTHER, and "
                             "ngx.HTTP_TEMPORARY_REDIRECT are allowed");
    }
    Request& request = request_of(L);
    LuaTask& task = task_of(L);
    if (task.abort_refused) return luaL_error(L, "attempt to abort with pending subrequests");
    if (request.output != Request::Output::none)
        return luaL_error(L, "attempt to call ngx.redirect after sending out the headers");
    if (const char* byte = find_unsafe_byte(uri)) {
        std::string why = core::format("unsafe byte \"0x%02x\" in redirect uri \"%s\"",
                                       static_cast<unsigned char>(*byte),
                                       escaped_for_log(uri).c_str());
        return luaL_error(L, "%s", why.c_str());
    }
    uri = request.arena.copy(uri);
    // A path is sent as it is, without the server's name in front.
    if (uri.starts_with("/") || uri.empty()) request.response.headers.set("Location", uri);
    else request.response.location = uri;
    request.response.status = uint16_t(status);
    return stop(L, task, TaskEnd::exited, status);
}

int on_abort(lua_State* L) {
    request_of(L);
    LuaTask& task = task_of(L);
    auto refuse_call = [L](const char* why) {
        lua_pushnil(L);
        lua_pushstring(L, why);
        return 2;
    };
    if (task.on_abort) return refuse_call("duplicate call");
    if (!task.conf->check_client_abort) return refuse_call("lua_check_client_abort is off");
    luaL_argcheck(L, lua_isfunction(L, 1) && !lua_iscfunction(L, 1), 1, "Lua function expected");
    LuaThread& thread = create_light_thread(task, L);
    lua_pushvalue(L, 1);
    lua_xmove(L, thread.L, 1);
    thread.state = LuaThread::waiting;
    task.on_abort = &thread;
    lua_pushinteger(L, 1);
    return 1;
}

constexpr LuaFunction functions[] = {
    {"ngx.exec", exec, in_answering},
    {"ngx.redirect", redirect, in_answering},
    {"ngx.on_abort", on_abort, in_answering},
};
REGISTER_LUA_API(control, functions);

}  // namespace
}  // namespace lua
