// ngx.req.socket(): the request body as a stream, or (true) the client's connection itself, taken
// away from HTTP.
#include <cstring>
#include <string>
#include <utility>

#include "lua/api/socket_tcp.h"
#include "server/http/body.h"
#include "server/http/connection.h"
#include "server/http/exchange.h"
#include "server/http/request.h"

namespace lua {
namespace {

using server::Request;
using server::RequestBody;

// A socket's table with its object, pushed.
TcpSocket& push_socket(lua_State* L, LuaTask& task, TcpSocket::Kind kind,
                       SocketConnection& connection) {
    lua_createtable(L, 2, 3);
    push_socket_methods(L, kind == TcpSocket::Kind::raw ? raw_methods : body_methods);
    lua_setmetatable(L, -2);
    TcpSocket& socket = push_socket_object(L, task);
    lua_rawseti(L, -2, handle_index);
    socket.kind = kind;
    socket.request = task.request;
    socket.attach(connection);
    return socket;
}

int body_socket(lua_State* L, LuaTask& task) {
    Request& request = *task.request;
    RequestBody& body = request.body;
    if (body.chunked && compat_openresty()) {
        return push_error(L, "chunked request bodies not supported yet");
    }
    switch (body.state()) {
    case RequestBody::State::untouched: break;
    case RequestBody::State::discarding:
    case RequestBody::State::discarded: return push_error(L, "request body discarded");
    default: return push_error(L, "request body already exists");
    }
    if (!body.present()) return push_error(L, "no body");
    if (std::exchange(body.expects_continue, false)) request.exchange->send_interim(request, 100);
    push_socket(L, task, TcpSocket::Kind::body, *SocketConnection::open_body(request));
    return 1;
}

// Why the connection cannot be taken now; null when it can.
const char* unready(const LuaTask& task) {
    Request& request = *task.request;
    bool body_waited = request.body.state() == RequestBody::State::reading;
    if (body_waited && !request.body.received_all()) {
        return "pending request body reading in some other thread";
    }
    if (task.of_request->raw_socket) return "duplicate call";
    if (task.of_request->buffering) return "http 1.0 buffering";
    request.exchange->flush(request);
    return request.exchange->pending_bytes() > 0 ? "pending data to write" : nullptr;
}

int raw_socket(lua_State* L, LuaTask& task) {
    if (const char* why = unready(task)) return push_error(L, why);
    Request& request = *task.request;
    std::string leftover;
    core::Stream stream = request.connection.detach(leftover);
    int error = 0;
    auto* connection = SocketConnection::open(std::move(stream), PoolSlot(), &error);
    if (!connection) {
        request.cut();
        return push_system_error(L, error);
    }
    if (!leftover.empty()) {
        if (char* to = connection->input.room(leftover.size())) {
            std::memcpy(to, leftover.data(), leftover.size());
            connection->input.filled(leftover.size());
        }
    }
    connection->nodelay_set = true;                  // or a matter of the listening socket
    task.of_request->raw_socket = true;
    request.keep_alive = false;
    request.output = Request::Output::ended;         // nothing of HTTP goes out any more
    push_socket(L, task, TcpSocket::Kind::raw, *connection);
    return 1;
}

int request_socket(lua_State* L) {
    int count = lua_gettop(L);
    if (count > 1) return luaL_error(L, "expecting 0 or 1 argument, but got %d", count);
    bool raw = count == 1 && lua_toboolean(L, 1);
    Request& request = request_of(L);
    if (&request != request.main) {
        return luaL_error(L, "attempt to read the request body in a subrequest");
    }
    if (request.head.version >= 20) {
        return luaL_error(L, "http v%d not supported yet", request.head.version / 10);
    }
    LuaTask& task = task_of(L);
    return raw ? raw_socket(L, task) : body_socket(L, task);
}

constexpr LuaFunction functions[] = {{"ngx.req.socket", request_socket, in_answering}};

void install(lua_State* L) {
    static constexpr luaL_Reg methods[] = {
        {"receive", socket_receive}, {"receiveany", socket_receiveany},
        {"receiveuntil", socket_receiveuntil}, {"settimeout", socket_settimeout},
        {"settimeouts", socket_settimeouts}, {"send", socket_send},
    };
    for (const char* name : {body_methods, raw_methods}) {
        push_socket_methods(L, name);
        for (const luaL_Reg& method : methods) {
            bool writes = method.func == socket_send;
            if (writes && name == body_methods) continue;
            lua_pushcfunction(L, method.func);
            lua_setfield(L, -2, method.name);
        }
        lua_pop(L, 1);
    }
}

REGISTER_LUA_API(socket_request, functions, install);

}  // namespace
}  // namespace lua
