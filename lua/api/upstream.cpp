// ngx.upstream: what is known of upstream groups and their servers, and changing them at run time.
// The module of OpenResty's lua-upstream-nginx-module, and set_peers() beyond it.
#include "lua/api.h"
#include "server/upstream/balancer.h"

namespace lua {

namespace {

int fail(lua_State* L, const char* why) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

void set(lua_State* L, const char* name, core::Slice value) {
    push_slice(L, value);
    lua_setfield(L, -2, name);
}

void set(lua_State* L, const char* name, int64_t value) {
    lua_pushinteger(L, lua_Integer(value));
    lua_setfield(L, -2, name);
}

void set_true(lua_State* L, const char* name, bool value) {
    if (!value) return;
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, name);
}

int arguments(lua_State* L, int wanted, const char* text) {
    if (lua_gettop(L) == wanted) return 0;
    return luaL_error(L, "%s", text);
}

int get_upstreams(lua_State* L) {
    arguments(L, 0, "no argument expected");
    std::vector<std::string> names = server::upstream_names();
    lua_createtable(L, int(names.size()), 0);
    int at = 0;
    for (const std::string& name : names) {
        push_slice(L, name);
        lua_rawseti(L, -2, ++at);
    }
    return 1;
}

void push_server(lua_State* L, const server::ServerView& view) {
    lua_newtable(L);
    if (!view.name.empty()) set(L, "name", view.name);
    if (view.addresses.size() == 1) {
        set(L, "addr", view.addresses[0]);
    } else {
        lua_createtable(L, int(view.addresses.size()), 0);
        int at = 0;
        for (const std::string& address : view.addresses) {
            push_slice(L, address);
            lua_rawseti(L, -2, ++at);
        }
        lua_setfield(L, -2, "addr");
    }
    set(L, "weight", view.weight);
    set(L, "max_fails", view.max_fails);
    set(L, "fail_timeout", view.fail_timeout_s);
    set_true(L, "backup", view.backup);
    set_true(L, "down", view.down);
}

int get_servers(lua_State* L) {
    arguments(L, 1, "exactly one argument expected");
    std::vector<server::ServerView> servers;
    if (!server::upstream_servers(check_slice(L, 1), servers)) {
        return fail(L, "upstream not found");
    }
    lua_createtable(L, int(servers.size()), 0);
    int at = 0;
    for (const auto& view : servers) {
        push_server(L, view);
        lua_rawseti(L, -2, ++at);
    }
    return 1;
}

void push_peer(lua_State* L, const server::PeerView& view, int id) {
    lua_newtable(L);
    set(L, "id", id);
    set(L, "name", view.name);
    set(L, "weight", view.weight);
    set(L, "current_weight", view.current_weight);
    set(L, "effective_weight", view.effective_weight);
    set(L, "conns", view.conns);
    set(L, "fails", view.fails);
    set(L, "max_fails", view.max_fails);
    if (view.max_conns) set(L, "max_conns", view.max_conns);
    set(L, "fail_timeout", view.fail_timeout_s);
    if (view.accessed_s) set(L, "accessed", view.accessed_s);
    if (view.checked_s) set(L, "checked", view.checked_s);
    set_true(L, "down", view.down);
}

int get_peers(lua_State* L, bool backup) {
    arguments(L, 1, "exactly one argument expected");
    std::vector<server::PeerView> peers;
    if (!server::upstream_peers(check_slice(L, 1), backup, peers)) {
        return fail(L, "upstream not found");
    }
    lua_createtable(L, int(peers.size()), 0);
    int at = 0;
    for (const auto& view : peers) {
        push_peer(L, view, at);
        lua_rawseti(L, -2, ++at);
    }
    return 1;
}

int get_primary_peers(lua_State* L) { return get_peers(L, false); }
int get_backup_peers(lua_State* L) { return get_peers(L, true); }

int set_peer_down(lua_State* L) {
    arguments(L, 4, "exactly 4 arguments expected");
    core::Slice name = check_slice(L, 1);
    bool backup = lua_toboolean(L, 2);
    int id = int(luaL_checkinteger(L, 3));
    const char* wrong = server::set_upstream_peer_down(name, backup, id, lua_toboolean(L, 4));
    if (wrong) return fail(L, wrong);
    lua_pushboolean(L, 1);
    return 1;
}

int current_upstream_name(lua_State* L) {
    arguments(L, 0, "no argument expected");
    core::Slice name = server::upstream_name(request_of(L));
    if (name.empty()) lua_pushnil(L);
    else push_slice(L, name);
    return 1;
}

// ---- set_peers(upstream, { "addr:port" or {addr = …, weight = …}, … }) ----

int64_t number_field(lua_State* L, const char* name, int64_t otherwise) {
    lua_getfield(L, -1, name);
    int64_t value = lua_isnumber(L, -1) ? int64_t(lua_tonumber(L, -1)) : otherwise;
    lua_pop(L, 1);
    return value;
}

bool flag_field(lua_State* L, const char* name) {
    lua_getfield(L, -1, name);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

// The entry at the top of the stack. False: it is not one.
bool read_peer(lua_State* L, server::NewPeer& peer) {
    if (lua_type(L, -1) == LUA_TSTRING) {
        peer.address = lua_tostring(L, -1);
        return true;
    }
    if (!lua_istable(L, -1)) return false;
    lua_getfield(L, -1, "addr");
    if (const char* address = lua_tostring(L, -1)) peer.address = address;
    lua_pop(L, 1);
    peer.weight = int(number_field(L, "weight", 1));
    peer.max_conns = int(number_field(L, "max_conns", 0));
    peer.max_fails = int(number_field(L, "max_fails", 1));
    peer.fail_timeout_s = number_field(L, "fail_timeout", 10);
    peer.slow_start_ms = number_field(L, "slow_start", 0) * 1000;
    peer.backup = flag_field(L, "backup");
    peer.down = flag_field(L, "down");
    return !peer.address.empty();
}

// Everything C++ is gone when an error is raised with what this leaves on the stack.
bool replace_peers(lua_State* L, core::Slice upstream) {
    std::vector<server::NewPeer> peers;
    for (int i = 1;; ++i) {
        lua_rawgeti(L, 2, i);
        if (lua_isnil(L, -1)) break;
        server::NewPeer peer;
        if (!read_peer(L, peer)) {
            lua_pushfstring(L, "bad peer #%d", i);
            return false;
        }
        lua_pop(L, 1);
        peers.push_back(std::move(peer));
    }
    std::string wrong = server::replace_upstream_peers(upstream, peers);
    if (wrong.empty()) return true;
    push_slice(L, wrong);
    return false;
}

int set_peers(lua_State* L) {
    core::Slice upstream = check_slice(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    if (replace_peers(L, upstream)) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushnil(L);
    lua_insert(L, -2);
    return 2;
}

constexpr luaL_Reg module_functions[] = {
    {"get_upstreams", get_upstreams},
    {"get_servers", get_servers},
    {"get_primary_peers", get_primary_peers},
    {"get_backup_peers", get_backup_peers},
    {"set_peer_down", set_peer_down},
    {"current_upstream_name", current_upstream_name},
    {"set_peers", set_peers},
};

int open_module(lua_State* L) {
    lua_createtable(L, 0, int(std::size(module_functions)));
    for (const luaL_Reg& each : module_functions) {
        lua_pushcfunction(L, each.func);
        lua_setfield(L, -2, each.name);
    }
    return 1;
}

void install(lua_State* L) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open_module);
    lua_setfield(L, -2, "ngx.upstream");
    lua_pop(L, 2);
}

}  // namespace

REGISTER_LUA_API(upstream, {}, install);

}  // namespace lua
