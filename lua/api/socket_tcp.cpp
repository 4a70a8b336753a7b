// ngx.socket.tcp() and the methods of a socket that do not wait: timeouts, bind, close, shutdown.
// The object's own life; see socket_tcp.h.
#include "lua/api/socket_tcp.h"

#include <sys/socket.h>

#include <cctype>
#include <cerrno>
#include <cstring>
#include <new>

#include <openssl/ssl.h>

#include "core/tls.h"
#include "lua/api/socket_address.h"
#include "server/http/connection.h"

using lua::SocketConnection;
using lua::SocketOp;

ngx_http_lua_socket_tcp_upstream_s::~ngx_http_lua_socket_tcp_upstream_s() {
    close();
    forget_handshake();
}

void ngx_http_lua_socket_tcp_upstream_s::forget_handshake() {
    if (!handshake.fetched) SSL_SESSION_free(handshake.session);
    handshake = {};
}

void ngx_http_lua_socket_tcp_upstream_s::set_owner(lua::LuaTask& task) {
    owner = lua::owner_of(task);
    conf = task.conf;
    outer_log_ = &task.log();
    log_ = *outer_log_;
    log_.describe = describe;
    log_.subject = this;
    unlink();
    lua::owned_by(task).push_back(*this);
}

void ngx_http_lua_socket_tcp_upstream_s::detach() {
    unlink();
    owner = nullptr;
    request = nullptr;
    outer_log_ = &core::process_log();
    log_ = *outer_log_;
    log_.describe = describe;
    log_.subject = this;
}

void ngx_http_lua_socket_tcp_upstream_s::describe(const void* self, core::LogLine& line) {
    auto& socket = *static_cast<const lua::TcpSocket*>(self);
    if (!socket.downstream()) {
        bool ported = socket.remote.port() != 0;
        line.append(", upstream: ");
        line.append(socket.host);
        if (ported) line.format(":%d", socket.remote.port());
        if (socket.remote.family() != AF_UNSPEC) {
            line.format("(%s)", socket.remote.ip_text().c_str());
        }
    }
    if (socket.outer_log_->describe) socket.outer_log_->describe(socket.outer_log_->subject, line);
}

int ngx_http_lua_socket_tcp_upstream_s::fd() const {
    if (!connection) return -1;
    return kind == Kind::body ? request->connection.stream.fd() : connection->stream.fd();
}

void ngx_http_lua_socket_tcp_upstream_s::attach(SocketConnection& opened) {
    connection = &opened;
    opened.user = this;
    read_closed = write_closed = false;
}

SocketConnection* ngx_http_lua_socket_tcp_upstream_s::give_away() {
    SocketConnection* given = connection;
    connection = nullptr;
    given->user = nullptr;
    unlink();
    return given;
}

void ngx_http_lua_socket_tcp_upstream_s::close() {
    unlink();
    read_closed = write_closed = true;
    for (SocketOp* waiting : {connecting, reading, writing})
        if (waiting) waiting->abandon();
    SocketConnection* closing = connection;
    connection = nullptr;
    if (!closing) return;
    if (kind == Kind::raw && closing->unread() && !closing->ended()) {
        constexpr int64_t lingering_ms = 5000;      // as lingering_timeout's default
        return SocketConnection::linger(closing, lingering_ms);
    }
    SocketConnection::close(closing);
}

void ngx_http_lua_socket_tcp_upstream_s::ready(uint8_t what) {
    bool any = connection->stream.tls();   // a TLS read may wait for writing, and the other way
    if (connecting) return connecting->ready();
    if (writing && (any || (what & (core::ready_write | core::ready_hangup)))) writing->ready();
    if (reading && (any || (what & (core::ready_read | core::ready_hangup)))) {
        reading->ready();
    } else if (request && (what & core::ready_hangup) && request->on_abort) {
        request->client_aborted();
    }
}

namespace lua {

// ---- waits ----

SocketOp::SocketOp(LuaThread& thread, TcpSocket& socket, Slot slot)
    : Op(thread), socket_(&socket), slot_(slot),
      timer_([](void* self) { static_cast<SocketOp*>(self)->timed_out(); }, this) {
    socket.*slot = this;
}

SocketOp::~SocketOp() {
    if (!socket_) return;
    socket_->*slot_ = nullptr;
    if (!done_) socket_->close();
}

void SocketOp::leave() {
    if (socket_) socket_->*slot_ = nullptr;
}

void SocketOp::finish() {
    timer_.cancel();
    if (done_) return;
    done_ = true;
    complete();
}

void SocketOp::abandon() {
    leave();
    socket_ = nullptr;
    if (!failure_) failure_ = {SocketFailure::closed};
    finish();
}

// ---- shared by the calls ----

int push_error(lua_State* L, core::Slice text) {
    lua_pushnil(L);
    push_slice(L, text);
    return 2;
}

int push_system_error(lua_State* L, int error) {
    std::string text = core::error_name(error);
    for (char& c : text) c = char(std::tolower(static_cast<unsigned char>(c)));
    return push_error(L, text);
}

int push_failure(lua_State* L, SocketFailure failure) {
    switch (failure.kind) {
    case SocketFailure::timeout: return push_error(L, "timeout");
    case SocketFailure::closed: return push_error(L, "closed");
    case SocketFailure::client_aborted: return push_error(L, "client aborted");
    case SocketFailure::no_memory: return push_error(L, "no memory");
    case SocketFailure::none:
    case SocketFailure::system: break;
    }
    return failure.error ? push_system_error(L, failure.error) : push_error(L, "error");
}

void log_connection_error(const TcpSocket& socket, int error, const char* call) {
    switch (error) {
    case 0: case ECONNRESET: case EPIPE: case ENOTCONN: case ETIMEDOUT: case ECONNREFUSED:
    case ENETDOWN: case ENETUNREACH: case EHOSTDOWN: case EHOSTUNREACH:
        LOG(socket.log(), error, error, "%s failed", call);
        break;
    default:
        LOG(socket.log(), alert, error, "%s failed", call);
    }
}

void log_closed_use(LuaTask& task, const TcpSocket* socket, const char* what) {
    if (!task.conf->socket_log_errors) return;
    SocketConnection* connection = socket ? socket->connection : nullptr;
    const core::LogContext& log = connection ? socket->log() : task.log();
    LOG(log, error, 0, "attempt to %s data on a closed socket: u:%p, c:%p, ft:0 eof:%d", what,
        static_cast<const void*>(socket), static_cast<void*>(connection),
        connection && connection->ended());
}

TcpSocket* socket_at(lua_State* L, int index) {
    lua_rawgeti(L, index, handle_index);
    auto* socket = static_cast<TcpSocket*>(lua_touserdata(L, -1));
    lua_pop(L, 1);
    return socket;
}

void check_owner(lua_State* L, const TcpSocket& socket) {
    if (!socket.may_use(task_of(L))) luaL_error(L, "bad request");
}

const char* busy_text(const TcpSocket& socket, uint8_t with) {
    if ((with & busy_connecting) && socket.connecting) return "socket busy connecting";
    if ((with & busy_reading) && socket.reading) return "socket busy reading";
    if ((with & busy_writing) && socket.writing) return "socket busy writing";
    return nullptr;
}

namespace {

constexpr uint8_t busy_at_all = busy_connecting | busy_reading | busy_writing;

int new_socket(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 0) return luaL_error(L, "expecting zero arguments, but got %d", count);
    task_of(L);
    lua_createtable(L, 7, 1);
    push_socket_methods(L, tcp_methods);
    lua_setmetatable(L, -2);
    return 1;
}

// A connected socket's timeouts follow at once; one of 0 is the location's.
void use_timeouts(TcpSocket& socket, int64_t connect_ms, int64_t send_ms, int64_t read_ms) {
    const LuaConf& conf = *socket.conf;
    auto chosen = [](int64_t own, int64_t general) { return int(own > 0 ? own : general); };
    socket.connect_timeout_ms = chosen(connect_ms, conf.socket_connect_timeout->count);
    socket.send_timeout_ms = chosen(send_ms, conf.socket_send_timeout->count);
    socket.read_timeout_ms = chosen(read_ms, conf.socket_read_timeout->count);
}

int64_t timeout_argument(lua_State* L, int index) {
    auto timeout = int64_t(lua_tonumber(L, index));
    if (timeout >> 31) luaL_error(L, "bad timeout value");
    return timeout;
}

void store_timeouts(lua_State* L, int64_t connect_ms, int64_t send_ms, int64_t read_ms) {
    lua_pushinteger(L, lua_Integer(connect_ms));
    lua_rawseti(L, 1, connect_timeout_index);
    lua_pushinteger(L, lua_Integer(send_ms));
    lua_rawseti(L, 1, send_timeout_index);
    lua_pushinteger(L, lua_Integer(read_ms));
    lua_rawseti(L, 1, read_timeout_index);
    if (TcpSocket* socket = socket_at(L)) use_timeouts(*socket, connect_ms, send_ms, read_ms);
}

int close(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1) {
        return luaL_error(L, "expecting 1 argument (including the object) but seen %d", count);
    }
    task_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    TcpSocket* socket = socket_at(L);
    if (!socket || !socket->connection || (socket->read_closed && socket->write_closed)) {
        return push_error(L, "closed");
    }
    check_owner(L, *socket);
    if (const char* busy = busy_text(*socket, busy_at_all)) return push_error(L, busy);
    if (socket->request) return push_error(L, "attempt to close a request socket");
    socket->close();
    lua_pushinteger(L, 1);
    return 1;
}

// sock:shutdown("send"): the other side sees the end of what we send, and may go on sending.
int shutdown_sending(lua_State* L) {
    task_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    core::Slice direction = check_slice(L, 2);
    if (direction != "send") return push_error(L, "bad shutdown direction");
    TcpSocket* socket = socket_at(L);
    if (!socket || !socket->connection || socket->write_closed) return push_error(L, "closed");
    check_owner(L, *socket);
    if (const char* busy = busy_text(*socket, busy_connecting | busy_writing)) {
        return push_error(L, busy);
    }
    socket->connection->stream.shutdown_write();
    socket->close_writing();
    lua_pushinteger(L, 1);
    return 1;
}

// The socket of a call on an open, idle one; null after the refusal was pushed (two values).
TcpSocket* idle_socket(lua_State* L) {
    task_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    TcpSocket* socket = socket_at(L);
    if (!socket || !socket->connection) {
        push_error(L, "closed");
        return nullptr;
    }
    check_owner(L, *socket);
    const char* busy = busy_text(*socket, busy_at_all);
    if (busy) push_error(L, busy);
    return busy ? nullptr : socket;
}

// sock:detach(): it is the worker's from now on, for whoever has the object.
int detach(lua_State* L) {
    TcpSocket* socket = idle_socket(L);
    if (!socket) return 2;
    socket->detach();
    lua_pushboolean(L, 1);
    return 1;
}

// sock:attach(): it ends with the caller's request, or timer, again.
int attach(lua_State* L) {
    TcpSocket* socket = idle_socket(L);
    if (!socket) return 2;
    socket->set_owner(task_of(L));
    lua_pushboolean(L, 1);
    return 1;
}

int bind(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2 && count != 3) {
        return luaL_error(L, "expecting 2 or 3 arguments, but got %d", count);
    }
    LuaTask& task = task_of(L);
    if (!allowed(task, in_yieldable)) return refuse(L, task);
    luaL_checktype(L, 1, LUA_TTABLE);
    int port = 0;
    if (count == 3) {
        if (!lua_isnumber(L, 3)) {
            lua_pushnil(L);
            lua_pushfstring(L, "expecting port to be anumber but got type: %s",
                            luaL_typename(L, 3));
            return 2;
        }
        port = int(lua_tointeger(L, 3));
        if (port < 0 || port > 65535) {
            lua_pushnil(L);
            lua_pushfstring(L, "bad port number: %d", port);
            return 2;
        }
    }
    core::Address address;
    if (!core::Address::parse_ip(check_slice(L, 2), address)) return push_error(L, "bad address");
    address.set_port(port);
    new (lua_newuserdata(L, sizeof address)) core::Address(address);
    lua_rawseti(L, 1, bind_index);
    lua_pushboolean(L, 1);
    return 1;
}

int collect(lua_State* L) {
    if (auto* socket = static_cast<TcpSocket*>(lua_touserdata(L, 1))) std::destroy_at(socket);
    return 0;
}

constexpr const char* object_methods = "resty.socket_object";

constexpr LuaFunction functions[] = {
    {"ngx.socket.tcp", new_socket, in_yieldable},
    {"ngx.socket.stream", new_socket, in_yieldable},
};

constexpr char connect_function[] =
    "local tcp = ngx.socket.tcp\n"
    "return function(...)\n"
    "    local socket = tcp()\n"
    "    local done, why = socket:connect(...)\n"
    "    if not done then return nil, why end\n"
    "    return socket\n"
    "end\n";

void install(lua_State* L) {
    luaL_newmetatable(L, object_methods);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    static constexpr luaL_Reg methods[] = {
        {"connect", socket_connect}, {"receive", socket_receive},
        {"receiveany", socket_receiveany}, {"receiveuntil", socket_receiveuntil},
        {"send", socket_send}, {"settimeout", socket_settimeout},
        {"settimeouts", socket_settimeouts}, {"setkeepalive", socket_setkeepalive},
        {"getreusedtimes", socket_getreusedtimes}, {"close", close}, {"bind", bind},
        {"shutdown", shutdown_sending}, {"detach", detach}, {"attach", attach},
    };
    push_socket_methods(L, tcp_methods);
    for (const luaL_Reg& method : methods) {
        lua_pushcfunction(L, method.func);
        lua_setfield(L, -2, method.name);
    }
    push_socket_methods(L, raw_methods);
    for (const char* name : {"detach", "attach", "close", "shutdown"}) {
        lua_getfield(L, -2, name);
        lua_setfield(L, -2, name);
    }
    lua_pop(L, 2);
    lua_getglobal(L, "ngx");
    lua_getfield(L, -1, "socket");
    luaL_loadbuffer(L, connect_function, sizeof connect_function - 1, "=ngx.socket.connect");
    lua_call(L, 0, 1);
    lua_setfield(L, -2, "connect");
    lua_pop(L, 2);
}

REGISTER_LUA_API(socket_tcp, functions, install);

}  // namespace

int socket_settimeout(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2) {
        return luaL_error(L, "ngx.socket settimeout: expecting 2 arguments (including the object) "
                             "but seen %d", count);
    }
    int64_t timeout = timeout_argument(L, 2);
    store_timeouts(L, timeout, timeout, timeout);
    return 0;
}

int socket_settimeouts(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 4) {
        return luaL_error(L, "ngx.socket settimeouts: expecting 4 arguments (including the object) "
                             "but seen %d", count);
    }
    int64_t connect = timeout_argument(L, 2), send = timeout_argument(L, 3);
    store_timeouts(L, connect, send, timeout_argument(L, 4));
    return 0;
}

void push_socket_methods(lua_State* L, const char* name) {
    lua_getfield(L, LUA_REGISTRYINDEX, name);
    if (!lua_isnil(L, -1)) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, name);
}

TcpSocket& push_socket_object(lua_State* L, LuaTask& task) {
    void* room = lua_newuserdata(L, sizeof(TcpSocket));
    auto* socket = new (room) TcpSocket(task);
    luaL_getmetatable(L, object_methods);
    lua_setmetatable(L, -2);
    use_timeouts(*socket, 0, 0, 0);
    return *socket;
}

}  // namespace lua
