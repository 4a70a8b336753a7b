// The Lua modules cjson and cjson.safe, with the functions and settings of OpenResty's fork.
#include <climits>
#include <cstdio>

#include "lua/api.h"
#include "lua/cjson/config.h"

namespace lua::cjson {
namespace {

constexpr const char* on_off[] = {"off", "on", nullptr};
constexpr const char* off_on_null[] = {"off", "on", "null", nullptr};

Config& config_of(lua_State* L) {
    return *static_cast<Config*>(lua_touserdata(L, lua_upvalueindex(1)));
}

// Missing arguments become nil, so that every setting can be asked for without one.
Config& begin(lua_State* L, int arguments) {
    luaL_argcheck(L, lua_gettop(L) <= arguments, arguments + 1, "found too many arguments");
    lua_settop(L, arguments);
    return config_of(L);
}

int integer_setting(lua_State* L, int index, int& setting, int min, int max) {
    if (!lua_isnil(L, index)) {
        auto value = luaL_checkinteger(L, index);
        char wanted[64];
        std::snprintf(wanted, sizeof wanted, "expected integer between %d and %d", min, max);
        luaL_argcheck(L, min <= value && value <= max, 1, wanted);
        setting = int(value);
    }
    lua_pushinteger(L, setting);
    return 1;
}

// A boolean or one of the words; answers a boolean for the first two of them.
int choice_setting(lua_State* L, int index, int& setting, const char* const* words) {
    if (lua_isboolean(L, index)) {
        setting = lua_toboolean(L, index);
    } else if (!lua_isnil(L, index)) {
        setting = luaL_checkoption(L, index, nullptr, words);
    }
    if (setting <= 1) {
        lua_pushboolean(L, setting);
    } else {
        lua_pushstring(L, words[setting]);
    }
    return 1;
}

template <int Config::*setting>
int flag(lua_State* L) {
    Config& config = begin(L, 1);
    return choice_setting(L, 1, config.*setting, on_off);
}

template <int Config::*setting, int min, int max>
int integer(lua_State* L) {
    Config& config = begin(L, 1);
    return integer_setting(L, 1, config.*setting, min, max);
}

int sparse_array(lua_State* L) {
    Config& config = begin(L, 3);
    choice_setting(L, 1, config.sparse_convert, on_off);
    integer_setting(L, 2, config.sparse_ratio, 0, INT_MAX);
    integer_setting(L, 3, config.sparse_safe, 0, INT_MAX);
    return 3;
}

int encode_invalid_numbers(lua_State* L) {
    Config& config = begin(L, 1);
    return choice_setting(L, 1, config.encode_invalid_numbers, off_on_null);
}

int encode_indent(lua_State* L) {
    Config& config = begin(L, 1);
    if (!lua_isnil(L, 1)) config.encode_indent = luaL_checkstring(L, 1);
    lua_pushstring(L, config.encode_indent.c_str());
    return 1;
}

int encode_value(lua_State* L) {
    luaL_argcheck(L, lua_gettop(L) == 1, 1, "expected 1 argument");
    encode(L, config_of(L));
    return 1;
}

int decode_text(lua_State* L) {
    luaL_argcheck(L, lua_gettop(L) == 1, 1, "expected 1 argument");
    const Config& config = config_of(L);
    size_t bytes;
    const char* text = luaL_checklstring(L, 1, &bytes);
    if (config.decode_allow_comment) {
        decode_leniently(L, config, text, bytes);
    } else {
        decode(L, config, text, bytes);
    }
    return 1;
}

int destroy_config(lua_State* L) {
    static_cast<Config*>(lua_touserdata(L, 1))->~Config();
    return 0;
}

void push_config(lua_State* L) {
    ::new (lua_newuserdata(L, sizeof(Config))) Config;
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, destroy_config);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
}

int new_plain(lua_State* L);
int new_safe(lua_State* L);

constexpr luaL_Reg functions[] = {
    {"encode", encode_value},
    {"decode", decode_text},
    {"encode_empty_table_as_object", flag<&Config::encode_empty_table_as_object>},
    {"decode_array_with_array_mt", flag<&Config::decode_array_with_array_mt>},
    {"decode_allow_comment", flag<&Config::decode_allow_comment>},
    {"encode_sparse_array", sparse_array},
    {"encode_max_depth", integer<&Config::encode_max_depth, 1, INT_MAX>},
    {"decode_max_depth", integer<&Config::decode_max_depth, 1, INT_MAX>},
    {"encode_number_precision", integer<&Config::encode_number_precision, 1, 16>},
    {"encode_keep_buffer", flag<&Config::encode_keep_buffer>},
    {"encode_invalid_numbers", encode_invalid_numbers},
    {"decode_invalid_numbers", flag<&Config::decode_invalid_numbers>},
    {"encode_escape_forward_slash", flag<&Config::encode_escape_forward_slash>},
    {"encode_skip_unsupported_value_types", flag<&Config::encode_skip_unsupported_value_types>},
    {"encode_indent", encode_indent},
    {"new", new_plain},
};

// The metatable kept in the registry under this key, made on first use.
void push_metatable(lua_State* L, char& key) {
    lua_pushlightuserdata(L, &key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (!lua_isnil(L, -1)) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushlightuserdata(L, &key);
    lua_pushvalue(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

int new_plain(lua_State* L) {
    lua_createtable(L, 0, 24);
    push_config(L);
    for (const luaL_Reg& function : functions) {
        lua_pushvalue(L, -1);
        lua_pushcclosure(L, function.func, 1);
        lua_setfield(L, -3, function.name);
    }
    lua_pop(L, 1);
    lua_pushlightuserdata(L, nullptr);
    lua_setfield(L, -2, "null");
    push_metatable(L, empty_array_key);
    lua_setfield(L, -2, "empty_array_mt");
    push_metatable(L, array_key);
    lua_setfield(L, -2, "array_mt");
    lua_pushlightuserdata(L, &array_key);
    lua_setfield(L, -2, "empty_array");
    lua_pushliteral(L, "cjson");
    lua_setfield(L, -2, "_NAME");
    lua_pushliteral(L, "2.1.0.17");
    lua_setfield(L, -2, "_VERSION");
    return 1;
}

// nil and the message instead of an error.
int protected_call(lua_State* L) {
    luaL_argcheck(L, lua_gettop(L) == 1, 1, "expected 1 argument");
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    int status = lua_pcall(L, 1, 1, 0);
    if (status == LUA_ERRMEM) {
        return luaL_error(L, "Memory allocation error in CJSON protected call");
    }
    if (status == 0) return 1;
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

int new_safe(lua_State* L) {
    new_plain(L);
    for (const char* name : {"decode", "encode"}) {
        lua_getfield(L, -1, name);
        lua_pushcclosure(L, protected_call, 1);
        lua_setfield(L, -2, name);
    }
    lua_pushcfunction(L, new_safe);
    lua_setfield(L, -2, "new");
    return 1;
}

int open_plain(lua_State* L) {
    return new_plain(L);
}

int open_safe(lua_State* L) {
    return new_safe(L);
}

void install(lua_State* L) {
    learn_to_read_tables(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open_plain);
    lua_setfield(L, -2, "cjson");
    lua_pushcfunction(L, open_safe);
    lua_setfield(L, -2, "cjson.safe");
    lua_pop(L, 2);
}

REGISTER_LUA_API(cjson, {}, install);

}  // namespace
}  // namespace lua::cjson
