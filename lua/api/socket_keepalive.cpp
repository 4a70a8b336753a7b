// setkeepalive() and getreusedtimes(), and what a script may ask about the worker's pools.
#include <cstdint>
#include <vector>

#include "lua/api/socket_tcp.h"
#include "server/worker.h"

namespace lua {
namespace {

void set_number(lua_State* L, const char* name, double value) {
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

void push_pool(lua_State* L, const SocketPool& pool) {
    lua_createtable(L, 0, 11);
    push_slice(L, pool.key());
    lua_setfield(L, -2, "key");
    set_number(L, "size", double(pool.size()));
    if (pool.backlog() >= 0) set_number(L, "backlog", double(pool.backlog()));
    set_number(L, "connections", double(pool.connections() - pool.waiting()));
    set_number(L, "idle", double(pool.idle()));
    set_number(L, "waiting", double(pool.waiting()));
    set_number(L, "reused", double(pool.counts.taken));
    set_number(L, "evicted", double(pool.counts.evicted));
    set_number(L, "expired", double(pool.counts.expired));
    set_number(L, "queued", double(pool.counts.queued));
    set_number(L, "refused", double(pool.counts.refused));
}

// The pool named by the first argument (nil: there is none), or an array of all.
int pools(lua_State* L) {
    if (!lua_isnoneornil(L, 1)) {
        SocketPool* pool = SocketPool::find(check_slice(L, 1));
        pool ? push_pool(L, *pool) : lua_pushnil(L);
        return 1;
    }
    std::vector<const SocketPool*> all;
    SocketPool::visit_all(
        [](const SocketPool& pool, void* list) {
            static_cast<std::vector<const SocketPool*>*>(list)->push_back(&pool);
        },
        &all);
    lua_createtable(L, int(all.size()), 0);
    for (size_t i = 0; i < all.size(); ++i) {
        push_pool(L, *all[i]);
        lua_rawseti(L, -2, int(i) + 1);
    }
    return 1;
}

// Closes a pool's idle connections: its backend is known to have gone. How many.
int close_idle(lua_State* L) {
    SocketPool* pool = SocketPool::find(check_slice(L, 1));
    lua_pushinteger(L, pool ? lua_Integer(pool->close_idle()) : 0);
    return 1;
}

constexpr LuaFunction functions[] = {
    {"ngx.socket.pools", pools},
    {"ngx.socket.close_idle", close_idle},
};
REGISTER_LUA_API(socket_keepalive, functions);

}  // namespace

int socket_getreusedtimes(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1) {
        return luaL_error(L, "expecting 1 argument (including the object), but got %d", count);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    TcpSocket* socket = socket_at(L);
    if (!socket || !socket->connection || (socket->read_closed && socket->write_closed)) {
        return push_error(L, "closed");
    }
    lua_pushinteger(L, lua_Integer(socket->connection->reused));
    return 1;
}

// Why this connection cannot be kept; null when it can.
static const char* unfit(const TcpSocket& socket) {
    if (const char* busy = busy_text(socket, busy_connecting | busy_reading | busy_writing)) {
        return busy;
    }
    if (socket.downstream()) return "attempt to keep a request socket alive";
    if (!socket.connection->input.empty()) return "unread data in buffer";
    if (socket.pool_key.empty()) return "key not found";
    return nullptr;
}

// False: the other side has sent something that nobody asked for; it is closed.
static bool keep_alive(lua_State* L, TcpSocket& socket, int64_t timeout, int64_t size,
                       int arguments) {
    server::Worker* worker = server::Worker::current();
    if (worker && worker->leaving()) {
        socket.close();
        return true;
    }
    SocketPool* pool = SocketPool::find(socket.pool_key);
    if (!pool && size <= 0) {
        luaL_argerror(L, arguments, lua_pushfstring(L, "bad \"pool_size\" option value: %d",
                                                    int(size)));
    }
    if (!socket.connection->quiet()) {
        socket.close();
        return false;
    }
    if (!pool) pool = &SocketPool::make(socket.pool_key, size, -1);
    SocketConnection* connection = socket.give_away();
    socket.close();
    pool->put(*connection, timeout);
    return true;
}

int socket_setkeepalive(lua_State* L) {
    int count = lua_gettop(L);
    if (count < 1 || count > 3) {
        return luaL_error(L, "expecting 1 to 3 arguments (including the object), but got %d",
                          count);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    LuaTask& task = task_of(L);
    bool timed = count >= 2 && !lua_isnil(L, 2), sized = count >= 3 && !lua_isnil(L, 3);
    int64_t timeout = timed ? luaL_checkinteger(L, 2) : task.conf->socket_keepalive_timeout->count;
    int64_t size = sized ? luaL_checkinteger(L, 3) : int64_t(task.conf->socket_pool_size);
    TcpSocket* socket = socket_at(L);
    if (!socket || !socket->connection || socket->read_closed || socket->write_closed ||
        socket->connection->ended()) {
        return push_error(L, "closed");
    }
    check_owner(L, *socket);
    if (const char* why = unfit(*socket)) return push_error(L, why);
    if (!keep_alive(L, *socket, timeout, size, count)) {
        return push_error(L, "connection in dubious state");
    }
    lua_pushinteger(L, 1);
    return 1;
}

}  // namespace lua
