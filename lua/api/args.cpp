// Query strings between Lua tables and text: ngx.encode_args, ngx.decode_args,
// ngx.req.set_uri_args, ngx.req.get_post_args. lua/api/uri.h has the escaping beneath.
#include "lua/api/args.h"

#include <cstring>

#include "lua/api/ffi.h"
#include "lua/api/uri.h"
#include "server/http/request.h"

namespace lua {
namespace {

constexpr int arguments_max_default = 100;

void append_escaped(std::string& to, core::Slice text, Escape kind) {
    size_t before = to.size();
    to.resize(before + escaped_length(text, kind));
    escape_into(to.data() + before, text, kind);
}

// "&key=value" or, for true, "&key"; nothing for false. The value is on top of the stack.
void append_pair(lua_State* L, std::string& to, core::Slice key) {
    bool flag = lua_isboolean(L, -1);
    if (flag && !lua_toboolean(L, -1)) return;
    if (!flag && !lua_isstring(L, -1)) {
        luaL_error(L, "attempt to use %s as query arg value", luaL_typename(L, -1));
    }
    if (!to.empty()) to += '&';
    append_escaped(to, key, Escape::component);
    if (flag) return;
    to += '=';
    size_t size;
    const char* text = lua_tolstring(L, -1, &size);
    append_escaped(to, {text, size}, Escape::component);
}

// Adds to table[key]: a second value makes it a list. Key and value are on top and popped.
void add_value(lua_State* L, int table) {
    lua_pushvalue(L, -2);
    lua_rawget(L, table);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_rawset(L, table);
        return;
    }
    if (!lua_istable(L, -1)) {
        lua_createtable(L, 4, 0);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1);
        lua_pushvalue(L, -3);
        lua_pushvalue(L, -2);
        lua_rawset(L, table);
    }
    lua_insert(L, -2);
    lua_rawseti(L, -2, int(lua_objlen(L, -2)) + 1);
    lua_pop(L, 2);
}

int encode_args(lua_State* L) {
    if (lua_gettop(L) != 1) {
        return luaL_error(L, "expecting 1 argument but seen %d", lua_gettop(L));
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    push_slice(L, encoded_args(L, 1));
    return 1;
}

int decode_args(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1 && count != 2) {
        return luaL_error(L, "expecting 1 or 2 arguments but seen %d", count);
    }
    core::Slice text = check_slice(L, 1);
    int max = count == 2 ? int(luaL_checkinteger(L, 2)) : arguments_max_default;
    return push_decoded_args(L, text, max);
}

int set_uri_args(lua_State* L) {
    if (lua_gettop(L) != 1) {
        return luaL_error(L, "expecting 1 argument but seen %d", lua_gettop(L));
    }
    server::Request& request = request_of(L);
    switch (lua_type(L, 1)) {
    case LUA_TNUMBER:
        request.args = request.arena.copy(check_slice(L, 1));
        break;
    case LUA_TSTRING:
        request.args = escape_in(request.arena, check_slice(L, 1), Escape::set_args);
        break;
    case LUA_TTABLE:
        request.args = request.arena.copy(encoded_args(L, 1));
        break;
    default:
        return luaL_argerror(L, 1, lua_pushfstring(L, "string, number, or table expected, "
                                                      "but got %s", luaL_typename(L, 1)));
    }
    request.plain_uri = false;
    return 0;
}

int get_post_args(lua_State* L) {
    int count = lua_gettop(L);
    if (count > 1) return luaL_error(L, "expecting 0 or 1 arguments but seen %d", count);
    int max = count ? int(luaL_checkinteger(L, 1)) : arguments_max_default;
    server::Request& request = request_of(L);
    using State = server::RequestBody::State;
    switch (request.body.state()) {
    case State::discarding:
    case State::discarded:
        lua_createtable(L, 0, 0);
        return 1;
    case State::complete:
        break;
    default:
        return luaL_error(L, "no request body found; "
                             "maybe you should turn on lua_need_request_body?");
    }
    if (request.body.file_fd() >= 0) {
        lua_pushnil(L);
        lua_pushliteral(L, "request body in temp file not supported");
        return 2;
    }
    return push_decoded_args(L, request.body.text(request), max);
}

constexpr LuaFunction functions[] = {
    {"ngx.encode_args", encode_args},
    {"ngx.decode_args", decode_args},
    {"ngx.req.set_uri_args", set_uri_args},
    {"ngx.req.get_post_args", get_post_args},
};
REGISTER_LUA_API(args, functions);

}  // namespace

core::Slice encoded_args(lua_State* L, int table) {
    static thread_local std::string text;
    text.clear();
    if (table < 0) table = lua_gettop(L) + table + 1;
    lua_pushnil(L);
    while (lua_next(L, table)) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            luaL_error(L, "attempt to use a non-string key in the \"args\" option table");
        }
        size_t size;
        const char* key = lua_tolstring(L, -2, &size);
        if (!lua_istable(L, -1)) {
            append_pair(L, text, {key, size});
            lua_pop(L, 1);
            continue;
        }
        lua_pushnil(L);
        while (lua_next(L, -2)) {
            append_pair(L, text, {key, size});
            lua_pop(L, 1);
        }
        lua_pop(L, 1);
    }
    return text;
}

int push_decoded_args(lua_State* L, core::Slice text, int max) {
    lua_createtable(L, 0, 4);
    int table = lua_gettop(L);
    ArgumentReader reader(text);
    core::Slice key, value;
    bool has_value = false;
    std::string room(text.size(), '\0');
    for (int count = 0; reader.next(key, value, has_value);) {
        size_t key_bytes = unescape_into(room.data(), key);
        if (key_bytes) {
            lua_pushlstring(L, room.data(), key_bytes);
            if (has_value) {
                lua_pushlstring(L, room.data(), unescape_into(room.data(), value));
            } else {
                lua_pushboolean(L, 1);
            }
            add_value(L, table);
        }
        if (max > 0 && ++count == max && reader.more()) {
            lua_pushliteral(L, "truncated");
            return 2;
        }
    }
    return 1;
}

}  // namespace lua
