// receive(), receiveany() and receiveuntil(): bytes are read until the call's Reading is satisfied;
// on a timeout or an error Lua gets what there is.
#include <new>
#include <string>

#include "core/log.h"
#include "lua/api/socket_reading.h"
#include "lua/api/socket_tcp.h"

namespace lua {
namespace {

enum class Step : uint8_t { done, waits, failed };

// How much to ask the kernel for: as upstream a buffer at a time, so that what receiveany() gives
// and setkeepalive() finds unread is the same; but what is known to be long, or has
// turned out so, in fewer.
size_t read_size(const TcpSocket& socket, const Reading& reading) {
    constexpr size_t step_max = 64 * 1024;
    auto size = size_t(socket.conf->socket_buffer_size->count);
    size_t unread = socket.connection->input.unread().size();
    size_t wanted = reading.may_take_much() ? unread : reading.wanted(unread);
    return std::max(size, std::min(wanted, step_max));
}

// What the end of the stream means.
SocketFailure end_of(const TcpSocket& socket, const Reading& reading) {
    if (socket.kind == TcpSocket::Kind::raw && socket.request && socket.conf->check_client_abort) {
        return {SocketFailure::client_aborted};
    }
    if (reading.ends_with_stream()) return {};
    return {SocketFailure::closed};
}

Step advance(TcpSocket& socket, Reading& reading, SocketFailure& failure) {
    SocketConnection& connection = *socket.connection;
    for (;;) {
        if (reading.scan(connection.input.unread())) return Step::done;
        core::IoResult got = connection.fill(read_size(socket, reading));
        switch (got.status) {
        case core::Io::done:
            break;
        case core::Io::again:
            return Step::waits;
        case core::Io::closed:
            failure = end_of(socket, reading);
            return failure ? Step::failed : Step::done;
        case core::Io::failed:
            if (socket.kind == TcpSocket::Kind::body) {
                socket.request->on_abort = nullptr;  // the reader is told instead
                failure = {SocketFailure::client_aborted};
                return Step::failed;
            }
            log_connection_error(socket, got.error, "recv()");
            failure = {SocketFailure::system, got.error};
            return Step::failed;
        }
    }
}

void push_line(lua_State* L, core::Slice line) {
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.find('\r') == core::Slice::npos) return push_slice(L, line);
    std::string kept;
    for (char c : line)
        if (c != '\r') kept += c;
    push_slice(L, kept);
}

void push_text(lua_State* L, TcpSocket& socket, const Reading& reading) {
    constexpr size_t kept_bytes = 64 * 1024;
    ReceiveBuffer& input = socket.connection->input;
    core::Slice text = input.unread().substr(0, reading.given());
    reading.drops_returns() ? push_line(L, text) : push_slice(L, text);
    input.consume(reading.taken());
    input.shrink(kept_bytes);
}

int push_done(lua_State* L, TcpSocket& socket, const Reading& reading) {
    if (reading.too_long()) return push_error(L, "line too long");
    push_text(L, socket, reading);
    return 1;
}

// nil, the error, and what there is.
int push_failed(lua_State* L, TcpSocket& socket, const Reading& reading, SocketFailure failure) {
    push_failure(L, failure);
    push_text(L, socket, reading);
    if (failure.kind == SocketFailure::timeout) return 3;
    socket.close_reading();
    socket.connection->input.clear();
    return 3;
}

class Receive final : public SocketOp {
  public:
    Receive(LuaThread& thread, TcpSocket& socket, const Reading& reading)
        : SocketOp(thread, socket, &TcpSocket::reading), reading_(reading) {
        set_timer(socket.read_timeout_ms);
    }

    void ready() override {
        if (over_) return;
        switch (advance(socket(), reading_, failure_)) {
        case Step::waits: return set_timer(socket().read_timeout_ms);
        case Step::done:
        case Step::failed: break;
        }
        over_ = true;
        finish();
    }
    void timed_out() override {
        if (socket().conf->socket_log_errors) {
            LOG(socket().log(), error, 0, "lua tcp socket read timed out");
        }
        over_ = true;
        finish({SocketFailure::timeout});
    }
    int push_results(lua_State* L) override {
        if (abandoned()) {
            push_failure(L, failure_);
            lua_pushliteral(L, "");
            return 3;
        }
        leave();
        if (failure_) return push_failed(L, socket(), reading_, failure_);
        return push_done(L, socket(), reading_);
    }
    const char* name() const override { return "receive"; }

  private:
    Reading reading_;
    bool over_ = false;
};

int receive(lua_State* L, TcpSocket& socket, Reading reading) {
    LOG(socket.log(), debug, 0, "lua tcp socket read timeout: %d", socket.read_timeout_ms);
    SocketFailure failure;
    switch (advance(socket, reading, failure)) {
    case Step::done:
        return push_done(L, socket, reading);
    case Step::failed:
        return push_failed(L, socket, reading, failure);
    case Step::waits:
        break;
    }
    return await_socket<Receive>(L, socket, reading);
}

// The socket at `index`, when it can be read from; null after the refusal was pushed (two values).
TcpSocket* readable_socket(lua_State* L, int index, bool logs) {
    LuaTask& task = task_of(L);
    TcpSocket* socket = socket_at(L, index);
    if (!socket || !socket->connection || socket->read_closed) {
        if (logs) log_closed_use(task, socket, "receive");
        push_error(L, "closed");
        return nullptr;
    }
    check_owner(L, *socket);
    const char* busy = busy_text(*socket, busy_connecting | busy_reading);
    if (!busy) return socket;
    push_error(L, busy);
    return nullptr;
}

// ---- receiveuntil ----

constexpr const char* pattern_methods = "resty.socket_pattern";

int collect_pattern(lua_State* L) {
    if (auto* pattern = static_cast<UntilPattern*>(lua_touserdata(L, 1))) {
        std::destroy_at(pattern);
    }
    return 0;
}

int iterate(lua_State* L) {
    int count = lua_gettop(L);
    if (count > 1) return luaL_error(L, "expecting 0 or 1 argument, but seen %d", count);
    lua_Integer bytes = count == 1 ? luaL_checkinteger(L, 1) : 0;
    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    TcpSocket* socket = readable_socket(L, 1, false);
    if (!socket) return 2;
    auto* pattern = static_cast<UntilPattern*>(lua_touserdata(L, lua_upvalueindex(2)));
    if (pattern->ended) {
        pattern->ended = false;
        lua_settop(L, 0);
        lua_settop(L, 3);
        return 3;
    }
    return receive(L, *socket, Reading::until(*pattern, bytes > 0 ? size_t(bytes) : 0));
}

bool read_inclusive(lua_State* L, int table) {
    luaL_checktype(L, table, LUA_TTABLE);
    lua_getfield(L, table, "inclusive");
    if (!lua_isnil(L, -1) && !lua_isboolean(L, -1)) {
        luaL_error(L, "bad \"inclusive\" option value type: %s", luaL_typename(L, -1));
    }
    return lua_toboolean(L, -1);
}

void install(lua_State* L) {
    luaL_newmetatable(L, pattern_methods);
    lua_pushcfunction(L, collect_pattern);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}

REGISTER_LUA_API(socket_receive, {}, install);

}  // namespace

int socket_receiveuntil(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2 && count != 3) {
        return luaL_error(L, "expecting 2 or 3 arguments (including the object), but got %d",
                          count);
    }
    bool inclusive = count == 3 && read_inclusive(L, 3);
    task_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    core::Slice text = check_slice(L, 2);
    if (text.empty()) return push_error(L, "pattern is empty");
    lua_pushvalue(L, 1);
    new (lua_newuserdata(L, sizeof(UntilPattern))) UntilPattern(text, inclusive);
    luaL_getmetatable(L, pattern_methods);
    lua_setmetatable(L, -2);
    lua_pushcclosure(L, iterate, 2);
    return 1;
}

int socket_receiveany(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2) {
        return luaL_error(L, "expecting 2 arguments (including the object), but got %d", count);
    }
    task_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    TcpSocket* socket = readable_socket(L, 1, true);
    if (!socket) return 2;
    lua_Integer bytes = lua_isnumber(L, 2) ? lua_tointeger(L, 2) : 0;
    if (bytes <= 0) return luaL_argerror(L, 2, "bad max argument");
    return receive(L, *socket, Reading::any(size_t(bytes)));
}

// What the pattern argument of receive() asks for; raises when that is nothing.
static Reading read_pattern(lua_State* L) {
    core::Slice pattern = check_slice(L, 2);
    if (pattern.size() != 2 || pattern[0] != '*') {
        luaL_argerror(L, 2, lua_pushfstring(L, "bad pattern argument: %s", pattern.data()));
    }
    if (pattern[1] == 'a') return Reading::all();
    if (pattern[1] != 'l') luaL_argerror(L, 2, "bad pattern argument");
    return Reading::line();
}

// receive("*l", bytes_max): not in OpenResty. nil, "line too long" when the line has more.
static int receive_limited_line(lua_State* L, TcpSocket& socket) {
    lua_Integer bytes_max = luaL_checkinteger(L, 3);
    if (bytes_max <= 0 || check_slice(L, 2) != "*l") luaL_argerror(L, 3, "bad limit argument");
    return receive(L, socket, Reading::line(size_t(bytes_max)));
}

int socket_receive(lua_State* L) {
    int count = lua_gettop(L);
    if (count < 1 || count > 3) {
        return luaL_error(L, "expecting 1 or 2 arguments (including the object), but got %d",
                          count);
    }
    task_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    TcpSocket* socket = readable_socket(L, 1, true);
    if (!socket) return 2;
    if (count == 1) return receive(L, *socket, Reading::line());
    if (count == 3) return receive_limited_line(L, *socket);
    if (lua_isnumber(L, 2)) {
        lua_Integer bytes = lua_tointeger(L, 2);
        if (bytes < 0) return luaL_argerror(L, 2, "bad number argument");
        if (bytes == 0) {
            lua_pushliteral(L, "");
            return 1;
        }
        return receive(L, *socket, Reading::exactly(size_t(bytes)));
    }
    if (lua_type(L, 2) != LUA_TSTRING) return luaL_argerror(L, 2, "bad argument");
    return receive(L, *socket, read_pattern(L));
}

}  // namespace lua
