// tcpsock:send(): strings, numbers, booleans, nil and nested tables, sent as one run of bytes.
#include <cmath>
#include <string>

#include "core/log.h"
#include "lua/api/socket_tcp.h"
#include "lua/text.h"
#include "server/http/core_conf.h"
#include "server/http/request.h"

namespace lua {
namespace {

enum class Step : uint8_t { done, waits, failed };

// Sends from `bytes` on, and takes off what went.
Step advance(TcpSocket& socket, core::Slice& bytes, SocketFailure& failure) {
    while (!bytes.empty()) {
        core::IoResult sent = socket.connection->stream.write(bytes);
        if (sent.bytes > 0) {
            bytes.remove_prefix(size_t(sent.bytes));
            if (socket.kind == TcpSocket::Kind::raw && socket.request) {
                // What the request answers, for its log: there is no head apart from the rest.
                socket.request->bytes_sent += sent.bytes;
                socket.request->body_bytes_sent += sent.bytes;
            }
        }
        switch (sent.status) {
        case core::Io::done:
            break;
        case core::Io::again:
            return Step::waits;
        case core::Io::closed:
            failure = {SocketFailure::closed};
            return Step::failed;
        case core::Io::failed:
            log_connection_error(socket, sent.error, "send()");
            failure = {SocketFailure::system, sent.error};
            return Step::failed;
        }
    }
    return Step::done;
}

int push_sent(lua_State* L, TcpSocket& socket, size_t size, SocketFailure failure) {
    if (!failure) {
        lua_pushinteger(L, lua_Integer(size));
        return 1;
    }
    socket.close_writing();
    return push_failure(L, failure);
}

class Send final : public SocketOp {
  public:
    Send(LuaThread& thread, TcpSocket& socket, core::Slice rest, size_t size)
        : SocketOp(thread, socket, &TcpSocket::writing), bytes_(rest), rest_(bytes_),
          size_(size) {
        set_timer(socket.send_timeout_ms);
    }

    void ready() override {
        if (over_) return;
        size_t before = rest_.size();
        if (advance(socket(), rest_, failure_) == Step::waits) {
            if (rest_.size() < before) set_timer(socket().send_timeout_ms);
            return;
        }
        over_ = true;
        finish();
    }
    void timed_out() override {
        if (socket().conf->socket_log_errors) {
            LOG(socket().log(), error, 0, "lua tcp socket write timed out");
        }
        over_ = true;
        finish({SocketFailure::timeout});
    }
    int push_results(lua_State* L) override {
        if (abandoned()) return push_failure(L, failure_);
        leave();
        return push_sent(L, socket(), size_, failure_);
    }
    const char* name() const override { return "send"; }

  private:
    std::string bytes_;                  // a copy: Lua's own text may be collected
    core::Slice rest_;
    size_t size_;
    bool over_ = false;
};

// ---- the argument ----

void append_value(std::string& text, lua_State* L, int index);

[[gnu::cold]] void bad_element(lua_State* L, int index) {
    luaL_argerror(L, 2, lua_pushfstring(L, "bad data type %s found", luaL_typename(L, index)));
}

// The last index of an array table; raises when there are other keys.
int array_length(lua_State* L, int table) {
    int length = 0;
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
        if (key < 1 || std::floor(key) != key) luaL_argerror(L, 2, "non-array table found");
        if (key > length) length = int(key);
    }
    return length;
}

void append_table(std::string& text, lua_State* L, int table) {
    luaL_checkstack(L, 4, "table nested too deeply");
    int length = array_length(L, table);
    for (int i = 1; i <= length; ++i) {
        lua_rawgeti(L, table, i);
        append_value(text, L, lua_gettop(L));
        lua_pop(L, 1);
    }
}

void append_value(std::string& text, lua_State* L, int index) {
    switch (lua_type(L, index)) {
    case LUA_TTABLE: return append_table(text, L, index);
    case LUA_TSTRING:
    case LUA_TNUMBER: append_scalar(text, L, index); return;
    default: bad_element(L, index);
    }
}

// What the value at index 2 says. Valid until the next call, or as long as the string is.
core::Slice bytes_to_send(lua_State* L) {
    static std::string text;
    constexpr size_t kept_bytes = 64 * 1024;
    if (text.capacity() > kept_bytes) std::string().swap(text);
    text.clear();
    switch (int type = lua_type(L, 2)) {
    case LUA_TSTRING: return check_slice(L, 2);
    case LUA_TTABLE: append_table(text, L, 2); break;
    case LUA_TNUMBER:
    case LUA_TNIL:
    case LUA_TBOOLEAN: append_scalar(text, L, 2); break;
    default:
        luaL_argerror(L, 2, lua_pushfstring(L, "string, number, boolean, nil, or array table "
                                               "expected, got %s", lua_typename(L, type)));
    }
    return text;
}

bool wants_nodelay(const LuaTask& task) {
    if (task.request) return task.request->core().tcp_nodelay;
    return !task.core_conf || task.core_conf->tcp_nodelay;
}

// The socket, when it can be written to; null after the refusal was pushed (two values).
TcpSocket* writable_socket(lua_State* L, LuaTask& task) {
    TcpSocket* socket = socket_at(L);
    if (!socket || !socket->connection || socket->write_closed) {
        log_closed_use(task, socket, "send");
        push_error(L, "closed");
        return nullptr;
    }
    check_owner(L, *socket);
    if (const char* busy = busy_text(*socket, busy_connecting | busy_writing)) {
        push_error(L, busy);
        return nullptr;
    }
    if (socket->kind == TcpSocket::Kind::body) {
        luaL_error(L, "attempt to write to request sockets");
    }
    return socket;
}

}  // namespace

int socket_send(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2) {
        return luaL_error(L, "expecting 2 arguments (including the object), but got %d", count);
    }
    LuaTask& task = task_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    TcpSocket* socket = writable_socket(L, task);
    if (!socket) return 2;
    core::Slice bytes = bytes_to_send(L);
    size_t size = bytes.size();
    if (!socket->connection->nodelay_set && wants_nodelay(task)) {
        socket->connection->nodelay_set = true;
        core::set_nodelay(socket->fd());
    }
    LOG(task.log(), debug, 0, "lua tcp socket send timeout: %d", socket->send_timeout_ms);
    SocketFailure failure;
    if (advance(*socket, bytes, failure) != Step::waits) {
        return push_sent(L, *socket, size, failure);
    }
    return await_socket<Send>(L, *socket, bytes, size);
}

}  // namespace lua
