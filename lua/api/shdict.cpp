// ngx.shared: the lua_shared_dict directive, and the dictionaries' methods: FFI for those of
// lualib/resty/core/shdict.lua, C functions for lists and walks. The store is lua/shared_dict.h.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "conf/binder.h"
#include "conf/values.h"
#include "lua/api/ffi.h"
#include "lua/shared_dict.h"
#include "server/config.h"
#include "server/metrics.h"
#include "server/module.h"

namespace lua {
namespace {

using Status = SharedDict::Status;

struct DictConf {
    std::vector<std::unique_ptr<SharedDict>> dicts;
};

conf::Result<void> add_dict(DictConf& conf, const conf::Line& line) {
    core::Slice name = line.arg(0);
    if (name.empty()) return conf::Error{"invalid lua shared dict name \"\""};
    auto bytes = conf::parse_size(line.arg(1));
    if (!bytes || *bytes < int64_t(SharedDict::bytes_min)) {
        return conf::Error{"invalid lua shared dict size \"" + std::string(line.arg(1)) + "\""};
    }
    for (const auto& dict : conf.dicts) {
        if (dict->name() == name) {
            return conf::Error{"lua_shared_dict \"" + dict->name() +
                               "\" is already defined as \"" + dict->name() + "\""};
        }
    }
    auto dict = SharedDict::open(name, size_t(*bytes));
    if (!dict) return dict.take_error();
    conf.dicts.push_back(std::move(*dict));
    return {};
}

constexpr conf::Directive directives[] = {
    {"lua_shared_dict", conf::in_http, conf::takes(2), conf::call<add_dict>},
};

constinit const server::Module lua_shared_dict{.name = "lua_shared_dict",
                                               .conf = server::conf_of<DictConf>,
                                               .directives = directives};
REGISTER_MODULE(lua_shared_dict);

// The dictionary of a method call: {userdata} as first argument.
SharedDict& check_dict(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_rawgeti(L, 1, 1);
    auto** handle = static_cast<SharedDict**>(lua_touserdata(L, -1));
    lua_pop(L, 1);
    if (!handle) luaL_error(L, "bad \"zone\" argument");
    return **handle;
}

int push_failure(lua_State* L, const char* why) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

// What is wrong with the key at index 2; null: nothing.
const char* check_key(lua_State* L, core::Slice& key) {
    if (lua_isnil(L, 2)) return "nil key";
    key = check_slice(L, 2);
    if (key.empty()) return "empty key";
    if (key.size() > SharedDict::key_bytes_max) return "key too long";
    return nullptr;
}

void check_count(lua_State* L, int wanted) {
    int count = lua_gettop(L);
    if (count != wanted) {
        luaL_error(L, "expecting %d arguments, but only seen %d", wanted, count);
    }
}

int push_value(lua_State* L, SharedDict::End end) {
    check_count(L, 3);
    SharedDict& dict = check_dict(L);
    core::Slice key;
    if (const char* why = check_key(L, key)) return push_failure(L, why);
    SharedDict::Value value;
    if (lua_type(L, 3) == LUA_TSTRING) {
        value = {SharedDict::string, 0, check_slice(L, 3)};
    } else if (lua_type(L, 3) == LUA_TNUMBER) {
        value = {SharedDict::number, lua_tonumber(L, 3), {}};
    } else {
        return push_failure(L, "bad value type");
    }
    uint32_t length = 0;
    Status status = dict.push(key, value, end, length);
    if (status == Status::no_memory) return push_failure(L, "no memory");
    if (status != Status::ok) return push_failure(L, "value not a list");
    lua_pushnumber(L, length);
    return 1;
}

int pop_value(lua_State* L, SharedDict::End end) {
    static thread_local std::string text;  // outside the lock: pushing a string may raise
    check_count(L, 2);
    SharedDict& dict = check_dict(L);
    core::Slice key;
    if (const char* why = check_key(L, key)) return push_failure(L, why);
    SharedDict::Type type = SharedDict::nil;
    double number = 0;
    Status status = dict.pop(key, end, type, number, text);
    if (status == Status::not_a_list) return push_failure(L, "value not a list");
    if (status != Status::ok) {
        lua_pushnil(L);
    } else if (type == SharedDict::number) {
        lua_pushnumber(L, number);
    } else {
        push_slice(L, text);
    }
    return 1;
}

int lpush(lua_State* L) { return push_value(L, SharedDict::End::left); }
int rpush(lua_State* L) { return push_value(L, SharedDict::End::right); }
int lpop(lua_State* L) { return pop_value(L, SharedDict::End::left); }
int rpop(lua_State* L) { return pop_value(L, SharedDict::End::right); }

int llen(lua_State* L) {
    check_count(L, 2);
    SharedDict& dict = check_dict(L);
    core::Slice key;
    if (const char* why = check_key(L, key)) return push_failure(L, why);
    uint32_t length = 0;
    if (dict.length(key, length) != Status::ok) return push_failure(L, "value not a list");
    lua_pushnumber(L, length);
    return 1;
}

int optional_count(lua_State* L, int fallback) {
    int count = lua_gettop(L);
    if (count != 1 && count != 2) {
        luaL_error(L, "expecting 1 or 2 argument(s), but saw %d", count);
    }
    return count == 2 ? int(luaL_checkinteger(L, 2)) : fallback;
}

int flush_expired(lua_State* L) {
    int max = optional_count(L, 0);
    lua_pushnumber(L, check_dict(L).flush_expired(max));
    return 1;
}

int get_keys(lua_State* L) {
    constexpr int keys_max_default = 1024;
    int max = optional_count(L, keys_max_default);
    auto keys = check_dict(L).keys(max);
    lua_createtable(L, int(keys.size()), 0);
    int index = 0;
    for (const std::string& key : keys) {
        push_slice(L, key);
        lua_rawseti(L, -2, ++index);
    }
    return 1;
}

const std::vector<std::unique_ptr<SharedDict>>& all_dicts() {
    static const auto& none = *new std::vector<std::unique_ptr<SharedDict>>;
    server::Configuration& configuration = server::Configuration::current();
    return configuration.http_level() ? configuration.http<DictConf>(lua_shared_dict).dicts : none;
}

// ---- metrics ----

using Column = server::MetricColumn;
constexpr Column dict_columns[] = {
    {"dict", Column::label},
    {"capacity_bytes", Column::gauge, "resty_shared_dict_capacity_bytes",
     "Size of the shared dictionary."},
    {"free_bytes", Column::gauge, "resty_shared_dict_free_bytes",
     "Pages of the dictionary that nothing lies in."},
    {"used_bytes", Column::gauge, "resty_shared_dict_used_bytes",
     "Bytes that keys, values and their bookkeeping take."},
    {"keys", Column::gauge, "resty_shared_dict_keys",
     "Keys in the dictionary, expired ones that were not removed yet included."},
    {"evicted", Column::counter, "resty_shared_dict_evictions_total",
     "Keys that had to go, unused for longest, to make room for others."},
    {"expired", Column::counter, "resty_shared_dict_expired_total",
     "Keys removed after their time."},
    {"no_memory", Column::counter, "resty_shared_dict_no_memory_total",
     "Values there was no room for."},
};
void collect_dicts(const server::MetricTable&, server::MetricRows& to) {
    for (const auto& dict : all_dicts()) {
        SharedDict::Use use = dict->use();
        to.add({dict->name()}, {use.capacity_bytes, use.free_bytes, use.used_bytes, use.keys,
                                use.evicted, use.expired, use.refused});
    }
}
constinit const server::MetricTable shared_dicts{
    .name = "shared_dicts", .columns = dict_columns, .collect = collect_dicts};
REGISTER_METRICS(shared_dicts);

// ngx.shared.NAME = {userdata}, all with one metatable, to which the Lua side adds its methods.
void install(lua_State* L) {
    constexpr luaL_Reg methods[] = {
        {"lpush", lpush}, {"rpush", rpush},         {"lpop", lpop},
        {"rpop", rpop},   {"llen", llen},           {"flush_expired", flush_expired},
        {"get_keys", get_keys}, {nullptr, nullptr},
    };
    lua_getglobal(L, "ngx");
    lua_newtable(L);
    lua_newtable(L);
    for (const luaL_Reg* method = methods; method->name; method++) {
        lua_pushcfunction(L, method->func);
        lua_setfield(L, -2, method->name);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    for (const auto& dict : all_dicts()) {
        push_slice(L, dict->name());
        lua_createtable(L, 1, 0);
        *static_cast<SharedDict**>(lua_newuserdata(L, sizeof(SharedDict*))) = dict.get();
        lua_rawseti(L, -2, 1);
        lua_pushvalue(L, -3);
        lua_setmetatable(L, -2);
        lua_rawset(L, -4);
    }
    lua_pop(L, 1);
    lua_setfield(L, -2, "shared");
    lua_pop(L, 1);
}

REGISTER_LUA_API(shdict, {}, install);

SharedDict& dict_of(void* zone) { return *static_cast<SharedDict*>(zone); }

int fail(const char* why, int status, char** errmsg) {
    *errmsg = const_cast<char*>(why);
    return status;
}

}  // namespace
}  // namespace lua

using lua::SharedDict;

LUA_FFI void* ngx_http_lua_ffi_shdict_udata_to_zone(void* zone_udata) {
    return zone_udata ? *static_cast<void**>(zone_udata) : nullptr;
}

LUA_FFI int ngx_http_lua_ffi_shdict_get(void* zone, const unsigned char* key, size_t key_len,
                                        int* value_type, unsigned char** str_value_buf,
                                        size_t* str_value_len, double* num_value,
                                        int* user_flags, int get_stale, int* is_stale,
                                        char** errmsg) {
    SharedDict::Reading out;
    out.buffer = reinterpret_cast<char*>(*str_value_buf);
    out.room = *str_value_len;
    *errmsg = nullptr;
    *value_type = SharedDict::nil;
    auto status = lua::dict_of(zone).get(lua::slice(key, key_len), get_stale, out);
    if (status == SharedDict::Status::not_found) return lua::ffi_ok;
    if (status == SharedDict::Status::is_a_list) {
        return lua::fail("value is a list", lua::ffi_error, errmsg);
    }
    if (status != SharedDict::Status::ok) {
        return lua::fail("no memory", lua::ffi_error, errmsg);
    }
    *value_type = out.type;
    *user_flags = out.flags;
    *is_stale = out.stale;
    *num_value = out.number;
    if (out.type == SharedDict::string) {
        *str_value_buf = reinterpret_cast<unsigned char*>(out.text);
        *str_value_len = out.text_bytes;
    } else if (out.type == SharedDict::boolean) {
        **str_value_buf = out.number != 0;
    }
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_shdict_store(void* zone, int op, const unsigned char* key,
                                          size_t key_len, int value_type,
                                          const unsigned char* str_value_buf,
                                          size_t str_value_len, double num_value, long exptime,
                                          int user_flags, char** errmsg, int* forcible) {
    SharedDict& dict = lua::dict_of(zone);
    core::Slice name = lua::slice(key, key_len);
    *forcible = 0;
    if (value_type == SharedDict::nil) {
        if (op & (SharedDict::add | SharedDict::replace)) {
            return lua::fail("attempt to add or replace nil values", lua::ffi_error, errmsg);
        }
        dict.remove(name);
        return lua::ffi_ok;
    }
    SharedDict::Value value{SharedDict::Type(value_type), num_value,
                            lua::slice(str_value_buf, str_value_len)};
    bool evicted = false;
    auto status = dict.store(op, name, value, exptime, user_flags, evicted);
    *forcible = evicted;
    switch (status) {
    case SharedDict::Status::ok:
        return lua::ffi_ok;
    case SharedDict::Status::exists:
        return lua::fail("exists", lua::ffi_declined, errmsg);
    case SharedDict::Status::not_found:
        return lua::fail("not found", lua::ffi_declined, errmsg);
    default:
        return lua::fail("no memory", lua::ffi_error, errmsg);
    }
}

LUA_FFI int ngx_http_lua_ffi_shdict_incr(void* zone, const unsigned char* key, size_t key_len,
                                         double* value, char** err, int has_init, double init,
                                         long init_ttl, int* forcible) {
    bool evicted = false;
    auto status = lua::dict_of(zone).increment(lua::slice(key, key_len), *value,
                                               has_init ? &init : nullptr, init_ttl, evicted);
    *forcible = evicted;
    switch (status) {
    case SharedDict::Status::ok:
        return lua::ffi_ok;
    case SharedDict::Status::not_found:
        return lua::fail("not found", lua::ffi_error, err);
    case SharedDict::Status::not_a_number:
        return lua::fail("not a number", lua::ffi_error, err);
    default:
        return lua::fail("no memory", lua::ffi_error, err);
    }
}

LUA_FFI int ngx_http_lua_ffi_shdict_flush_all(void* zone) {
    lua::dict_of(zone).flush_all();
    return lua::ffi_ok;
}

LUA_FFI long ngx_http_lua_ffi_shdict_get_ttl(void* zone, const unsigned char* key,
                                             size_t key_len) {
    int64_t left = 0;
    if (!lua::dict_of(zone).ttl_ms(lua::slice(key, key_len), left)) return lua::ffi_declined;
    return long(left);
}

LUA_FFI int ngx_http_lua_ffi_shdict_set_expire(void* zone, const unsigned char* key,
                                               size_t key_len, long exptime) {
    bool found = lua::dict_of(zone).set_ttl(lua::slice(key, key_len), exptime);
    return found ? lua::ffi_ok : lua::ffi_declined;
}

LUA_FFI size_t ngx_http_lua_ffi_shdict_capacity(void* zone) {
    return lua::dict_of(zone).capacity();
}

LUA_FFI size_t ngx_http_lua_ffi_shdict_free_space(void* zone) {
    return lua::dict_of(zone).free_bytes();
}

// ---- the C interface for other modules, which FFI code uses as well ----

struct ngx_http_lua_value_t {
    uint8_t type;
    union {
        int b;
        double n;
        ngx_str_t s;             // room given by the caller; shortened to what was read
    } value;
};

LUA_FFI void* ngx_http_lua_find_zone(unsigned char* name, size_t length) {
    for (const auto& dict : lua::all_dicts()) {
        if (dict->name() == lua::slice(name, length)) return dict.get();
    }
    return nullptr;
}

LUA_FFI intptr_t ngx_http_lua_shared_dict_get(void* zone, unsigned char* key, size_t key_len,
                                              ngx_http_lua_value_t* value) {
    char room[256];
    SharedDict::Reading out;
    out.buffer = room;
    out.room = sizeof room;
    auto status = lua::dict_of(zone).get(lua::slice(key, key_len), false, out);
    if (status == SharedDict::Status::not_found) return lua::ffi_declined;
    if (status != SharedDict::Status::ok) return lua::ffi_error;
    std::unique_ptr<char, decltype(&std::free)> own(out.text == room ? nullptr : out.text,
                                                    &std::free);
    value->type = out.type;
    switch (out.type) {
    case SharedDict::nil: return lua::ffi_declined;
    case SharedDict::boolean: value->value.b = out.number != 0; return lua::ffi_ok;
    case SharedDict::number: value->value.n = out.number; return lua::ffi_ok;
    case SharedDict::string: break;
    case SharedDict::list: return lua::ffi_error;
    }
    if (!value->value.s.data || value->value.s.len == 0) return lua::ffi_error;
    value->value.s.len = std::min(value->value.s.len, out.text_bytes);
    std::memcpy(value->value.s.data, out.text, value->value.s.len);
    return lua::ffi_ok;
}
