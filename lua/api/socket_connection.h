// SocketConnection: an open connection of Lua's, with the bytes received on it: in use by a socket
// object (socket_tcp.h), or idle in a pool (socket_pool.h). Made by socket_connect.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "core/list.h"
#include "core/reactor.h"
#include "core/socket.h"
#include "core/timer.h"
#include "lua/api/socket_buffer.h"
#include "lua/api/socket_pool.h"

struct ngx_http_lua_socket_tcp_upstream_s;

namespace server {
class Request;
}

namespace lua {

using TcpSocket = ngx_http_lua_socket_tcp_upstream_s;

// Values that Lua code keeps with a connection, whoever uses it: resty.core's udata queue.
class SocketValues;
struct SocketValuesDelete {
    void operator()(SocketValues* values) const;
};

class SocketConnection final : public core::IoHandler, public core::ListNode {
  public:
    // Watches the descriptor; the error is errno's. `slot` counts it in its pool.
    static SocketConnection* open(core::Stream stream, PoolSlot slot, int* error);
    // The body of a request, to be read as if it were a connection.
    static SocketConnection* open_body(server::Request& request);
    // Closes it. Harmless inside its own callback, when nothing of it is touched afterwards.
    static void close(SocketConnection* connection);
    // Ends our side, and reads and drops what still comes for a while: closing at once would make
    // the kernel send RST, and what we sent might never be seen.
    static void linger(SocketConnection* connection, int64_t timeout_ms);

    // What is there, at most `room` bytes, into the buffer. `again` also without asking the kernel,
    // when it said before that there is nothing.
    core::IoResult fill(size_t room);
    // Bytes may be waiting in the kernel that nobody asked for.
    bool readable() const { return readable_; }
    // The other side has closed, as far as we know.
    bool ended() const { return ended_; }
    bool unread() const { return readable_ || !input.empty(); }
    // Nothing has come on an idle connection: it can be used.
    bool quiet();
    void begin_idle(SocketPool& pool, int64_t timeout_ms);
    void end_idle(TcpSocket& user);
    bool counted() const { return bool(slot_); }
    void count_in(SocketPool& pool) { slot_ = PoolSlot(pool); }

    void on_io(uint8_t ready) override;

    core::Stream stream;
    ReceiveBuffer input;
    TcpSocket* user;                     // null while idle
    std::string host;                    // as asked for: what the error log names
    core::Address remote;
    uint32_t reused = 0;
    bool nodelay_set = false;
    std::unique_ptr<SocketValues, SocketValuesDelete> values;

  private:
    friend class SocketPool;
    SocketConnection(core::Stream connected, PoolSlot slot)
        : stream(std::move(connected)), user(nullptr), slot_(std::move(slot)),
          idle_timer_(idle_too_long, this) {}
    ~SocketConnection() = default;
    static void idle_too_long(void* self);
    core::IoResult fill_from_body(size_t room);
    void drop_input();

    core::Watch watch_;
    PoolSlot slot_;
    core::Timer idle_timer_;
    server::Request* body_of_ = nullptr;
    core::Chain body_;                   // of it, not yet in `input`
    bool readable_ = false;
    bool ended_ = false;
    bool lingering_ = false;
};

}  // namespace lua
