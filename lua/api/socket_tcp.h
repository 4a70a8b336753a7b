// The object behind a TCP socket of Lua's (tcpsock[1]): its connection, who uses it and who waits
// on it. Shared by the socket_*.cpp files: connect, send, receive, tls, request. Lua code sees
// it as upstream's ngx_http_lua_socket_tcp_upstream_t.
#pragma once

#include <cstdint>
#include <string>

#include "core/log.h"
#include "lua/api.h"
#include "lua/api/socket_connection.h"
#include "lua/conf.h"
#include "lua/op.h"

struct ssl_session_st;
struct x509_store_st;

namespace lua {

class SocketOp;

// Why a call failed, as Lua is told.
struct SocketFailure {
    enum Kind : uint8_t { none, timeout, closed, client_aborted, system, no_memory };
    Kind kind = none;
    int error = 0;                                  // errno, for system
    explicit operator bool() const { return kind != none; }
};
// Pushes nil and the text; 2.
int push_failure(lua_State* L, SocketFailure failure);
int push_error(lua_State* L, core::Slice text);

// What the last handshake left for its caller to fetch.
struct HandshakeResult {
    const char* error = nullptr;
    long verify_error = 0;
    ssl_session_st* session = nullptr;              // one reference, until it is fetched…
    bool fetched = false;                           // …which lua-resty-core does twice
};

// Indices of a socket's table. Those of upstream that lua-resty-core uses have its numbers.
constexpr int handle_index = 1, connect_timeout_index = 2, send_timeout_index = 4,
              read_timeout_index = 5, bind_index = 8, transparent_index = 9;

}  // namespace lua

struct ngx_http_lua_socket_tcp_upstream_s final : lua::Owned {
    enum class Kind : uint8_t { upstream, body, raw };   // body, raw: of ngx.req.socket()

    explicit ngx_http_lua_socket_tcp_upstream_s(lua::LuaTask& task) { set_owner(task); }
    ~ngx_http_lua_socket_tcp_upstream_s();

    Kind kind = Kind::upstream;
    bool read_closed = false, write_closed = false;
    bool ssl_session_reuse = true, ssl_verify = false;
    int connect_timeout_ms = 0, send_timeout_ms = 0, read_timeout_ms = 0;
    lua::SocketConnection* connection = nullptr;    // null: closed
    lua::SocketOp* connecting = nullptr;            // connect or handshake
    lua::SocketOp* reading = nullptr;
    lua::SocketOp* writing = nullptr;
    const void* owner = nullptr;                    // the request, or the task without one;
                                                    // null: detached, whoever has it uses it
    const lua::LuaConf* conf = nullptr;
    server::Request* request = nullptr;             // whose client it is, body or raw
    std::string host;                               // as asked for
    std::string pool_key;
    int port = 0;
    core::Address remote;                           // AF_UNSPEC: not known yet
    std::string ssl_name;
    x509_store_st* ssl_trusted_store = nullptr;
    lua::HandshakeResult handshake;

    int fd() const;                                 // -1: closed
    bool downstream() const { return kind != Kind::upstream; }
    void set_owner(lua::LuaTask& task);
    void detach();                                  // outlives its owner
    bool may_use(const lua::LuaTask& task) const { return !owner || owner == owner_of(task); }
    // The line's end: ", upstream: host:port(address)" and what the request has to say.
    const core::LogContext& log() const { return log_; }

    void attach(lua::SocketConnection& opened);
    // Out of the hands of this socket, still open: into a pool.
    lua::SocketConnection* give_away();
    // Closes the connection; whoever waits on it is told "closed".
    void close();
    void forget_handshake();                        // its result
    void close_reading() { read_closed = true; }
    void close_writing() { write_closed = true; }
    void ready(uint8_t what);                       // from the connection
    void owner_ended() override { close(); }

  private:
    static void describe(const void* self, core::LogLine& line);
    core::LogContext log_;
    const core::LogContext* outer_log_ = nullptr;
};

namespace lua {

// A wait on a socket: at most one of each kind (the slot) at a time. Destroyed before it is done
// (the thread was killed, the request ended), it closes the socket, as upstream does: nobody can
// know how far a half-done call came.
class SocketOp : public Op {
  public:
    virtual void ready() = 0;                       // something happened on the connection
    virtual void timed_out() = 0;
    // The socket was closed, or is going away.
    void abandon();
    ~SocketOp() override;

  protected:
    using Slot = SocketOp* TcpSocket::*;
    SocketOp(LuaThread& thread, TcpSocket& socket, Slot slot);
    void set_timer(int64_t timeout_ms) { timer_.set(timeout_ms); }
    void cancel_timer() { timer_.cancel(); }
    void finish();                                  // queues the thread; the socket stays busy
    void finish(SocketFailure failure) {
        failure_ = failure;
        finish();
    }
    TcpSocket& socket() const { return *socket_; }
    bool abandoned() const { return !socket_; }
    // Called first in push_results: the socket may be used again.
    void leave();

    SocketFailure failure_;

  private:
    TcpSocket* socket_;
    Slot slot_;
    core::Timer timer_;
    bool done_ = false;
};

// Index 1 holds a socket's table. Its object, null before the first connect.
TcpSocket* socket_at(lua_State* L, int index = 1);
// Raises "bad request" when the socket is of another request or timer, and not detached.
void check_owner(lua_State* L, const TcpSocket& socket);
enum SocketBusy : uint8_t { busy_connecting = 1, busy_reading = 2, busy_writing = 4 };
// "socket busy reading", or null.
const char* busy_text(const TcpSocket& socket, uint8_t with);
// Waits for an O on the socket whose table is at index 1, which is kept alive meanwhile.
template <class O, class... Args>
int await_socket(lua_State* L, Args&&... args) {
    await_made<O>(L, std::forward<Args>(args)...);
    lua_settop(L, 1);
    return lua_yield(L, 1);
}

// "connection refused": what errno is in Lua.
int push_system_error(lua_State* L, int error);
// An error of a call on a connection, where and how nginx logs it: "recv() failed (104: …)".
void log_connection_error(const TcpSocket& socket, int error, const char* call);
// "attempt to receive data on a closed socket: …"
void log_closed_use(LuaTask& task, const TcpSocket* socket, const char* what);

// The method tables, by upstream's names in the registry; pushed, made when missing.
void push_socket_methods(lua_State* L, const char* name);
constexpr const char* tcp_methods = "__tcp_cosocket_mt";
constexpr const char* body_methods = "__tcp_req_cosocket_mt";
constexpr const char* raw_methods = "__tcp_raw_req_cosocket_mt";
// Pushes a new socket object (userdata).
TcpSocket& push_socket_object(lua_State* L, LuaTask& task);

int socket_connect(lua_State* L);
int socket_receive(lua_State* L);
int socket_receiveany(lua_State* L);
int socket_receiveuntil(lua_State* L);
int socket_send(lua_State* L);
int socket_settimeout(lua_State* L);
int socket_settimeouts(lua_State* L);
int socket_setkeepalive(lua_State* L);
int socket_getreusedtimes(lua_State* L);

}  // namespace lua
