// ngx.socket.udp: datagram sockets, over IP and Unix addresses. The Lua object is a table: [1] a
// userdata that holds the UdpSocket, [2] the timeout set, [3] the local address of bind(). The
// socket belongs to the request (or timer) that connected it and is closed when that ends.
#include <sys/socket.h>

#include <cerrno>
#include <cmath>
#include <memory>
#include <new>
#include <string>

#include "core/reactor.h"
#include "core/text.h"
#include "core/timer.h"
#include "lua/api.h"
#include "lua/api/socket_address.h"
#include "lua/conf.h"
#include "lua/op.h"
#include "lua/text.h"

namespace lua {
namespace {

constexpr int socket_slot = 1, timeout_slot = 2, bind_slot = 3;
constexpr size_t datagram_bytes_max = 65536;
char metatable_key, socket_metatable_key;      // of the registry

class UdpWait;

class UdpSocket final : public core::IoHandler, public Owned {
  public:
    ~UdpSocket();

    // False: the socket could not be connected; logged, and `error` is set.
    bool open(const core::Address& address);
    void close();
    void on_io(uint8_t ready) override;
    // A socket whose request is over is nobody's any more.
    void owner_ended() override {
        close();
        owner = this;
    }
    core::LogContext log() const;

    core::Fd fd;
    core::Watch watch;
    std::string host;
    int port = 0;
    core::Address address;
    std::unique_ptr<core::Address> local;
    int64_t read_timeout_ms = 0;
    const void* owner = nullptr;
    const core::LogContext* of_task = nullptr;   // of the task that uses it right now
    UdpWait* wait = nullptr;
    int error = 0;

  private:
    static void describe(const void* self, core::LogLine& line);
};

// One thread waits for something to happen to a socket. Killed meanwhile, it takes the socket with
// it, as upstream does.
class UdpWait : public Op {
  public:
    UdpWait(LuaThread& thread, UdpSocket& socket) : Op(thread), socket_(&socket) {
        socket.wait = this;
    }
    ~UdpWait() override {
        if (!socket_) return;
        socket_->wait = nullptr;
        if (!over_) socket_->close();
    }
    virtual void readable() {}
    void socket_gone() {
        socket_ = nullptr;
        wake();
    }

  protected:
    void wake() {
        if (woken_) return;
        woken_ = true;
        complete();
    }
    int end(int results) {
        over_ = true;
        return results;
    }
    UdpSocket* socket_;
    bool woken_ = false;

  private:
    bool over_ = false;
};

UdpSocket::~UdpSocket() {
    if (wait) wait->socket_gone();
}

void UdpSocket::describe(const void* self, core::LogLine& line) {
    const auto& socket = *static_cast<const UdpSocket*>(self);
    line.append(", upstream: ");
    line.append(socket.host);
    if (socket.port) line.format(":%d", socket.port);
    if (socket.address.family() != AF_UNSPEC) {
        char room[128];
        line.append("(");
        line.append(socket.address.ip_into(room, sizeof room));
        line.append(")");
    }
    if (socket.of_task->describe) socket.of_task->describe(socket.of_task->subject, line);
}

core::LogContext UdpSocket::log() const {
    core::LogContext log = *of_task;
    log.describe = describe;
    log.subject = this;
    return log;
}

bool UdpSocket::open(const core::Address& to) {
    address = to;
    core::ConnectOptions options;
    options.type = SOCK_DGRAM;
    options.bind = local.get();
    auto opened = core::connect_to(to, options);
    error = opened ? 0 : errno;
    if (!opened) {
        LOG(log(), crit, error, "connect() failed");
        return false;
    }
    fd = std::move(*opened);
    if (auto watching = watch.start(fd.get(), *this); !watching) {
        LOG(log(), alert, 0, "%s", watching.error().what.c_str());
        error = ENOMEM;
        fd.reset();
        return false;
    }
    return true;
}

void UdpSocket::close() {
    watch.stop_closing();
    fd.reset();
}

void UdpSocket::on_io(uint8_t) {
    if (wait) wait->readable();
}

// ---- what calls return ----

int fail(lua_State* L, core::Slice why) {
    lua_pushnil(L);
    push_slice(L, why);
    return 2;
}

// LuaSocket has its errors in lower case.
int fail_errno(lua_State* L, int error) {
    return fail(L, core::to_lower(core::error_name(error)));
}

int open_result(lua_State* L, UdpSocket& socket, const core::Address& address) {
    if (!socket.open(address)) return fail_errno(L, socket.error);
    lua_pushinteger(L, 1);
    return 1;
}

// ---- waiting ----

class UdpResolve final : public UdpWait {
  public:
    UdpResolve(LuaThread& thread, UdpSocket& socket, core::Resolver& resolver)
        : UdpWait(thread, socket) {
        auto done = [this](const core::Resolution& found) { take(found); };
        query_ = resolver.resolve(socket.host, done, core::ResolveKind::addresses,
                                  resolver_timeout_ms(task()));
    }
    int push_results(lua_State* L) override {
        if (!socket_) return fail(L, "closed");
        if (!failure_.empty()) return end(fail(L, failure_));
        return end(open_result(L, *socket_, address_));
    }
    const char* name() const override { return "resolve"; }

  private:
    void take(const core::Resolution& found) {
        if (!found.ok()) failure_ = found.error_text();
        else if (socket_) address_ = choose_address(found, socket_->port);
        wake();
    }
    std::unique_ptr<core::ResolveQuery> query_;
    std::string failure_;
    core::Address address_;
};

char datagram[datagram_bytes_max];

// One datagram, or why not. Nothing is pushed, and `again` returned, when none is there.
int receive_now(lua_State* L, UdpSocket& socket, size_t size) {
    ssize_t bytes;
    do {
        bytes = ::recv(socket.fd.get(), datagram, size, 0);
    } while (bytes < 0 && errno == EINTR);
    if (bytes >= 0) {
        lua_pushlstring(L, datagram, size_t(bytes));
        return 1;
    }
    int error = errno;
    if (error == EAGAIN || error == EWOULDBLOCK) return Op::again;
    LOG(socket.log(), error, error, "recv() failed");
    return fail_errno(L, error);
}

class UdpReceive final : public UdpWait {
  public:
    UdpReceive(LuaThread& thread, UdpSocket& socket, size_t size)
        : UdpWait(thread, socket),
          size_(size),
          timer_([](void* self) { static_cast<UdpReceive*>(self)->time_out(); }, this) {
        timer_.set(socket.read_timeout_ms);
    }
    void readable() override { wake(); }
    int push_results(lua_State* L) override {
        if (!socket_ || !socket_->fd.valid()) return end(fail(L, "closed"));
        if (timed_out_) return end(report_timeout(L));
        int results = receive_now(L, *socket_, size_);
        if (results != again) return end(results);
        woken_ = false;
        if (!timer_.pending()) timer_.set(0);      // it ran out while this was queued
        return again;
    }
    const char* name() const override { return "udp receive"; }

  private:
    void time_out() {
        timed_out_ = !woken_;
        wake();
    }
    int report_timeout(lua_State* L) {
        if (task().conf->socket_log_errors) {
            LOG(socket_->log(), error, 0, "lua udp socket read timed out");
        }
        return fail(L, "timeout");
    }
    size_t size_;
    core::Timer timer_;
    bool timed_out_ = false;
};

// ---- the Lua object ----

// The socket at index 1 of the table that is the first argument; null when it was never connected.
UdpSocket* find_socket(lua_State* L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_rawgeti(L, 1, socket_slot);
    void* socket = nullptr;
    if (lua_type(L, -1) == LUA_TUSERDATA && lua_getmetatable(L, -1)) {
        lua_pushlightuserdata(L, &socket_metatable_key);
        lua_rawget(L, LUA_REGISTRYINDEX);
        if (lua_rawequal(L, -1, -2)) socket = lua_touserdata(L, -3);
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
    return static_cast<UdpSocket*>(socket);
}

UdpSocket& make_socket(lua_State* L) {
    auto* socket = new (lua_newuserdata(L, sizeof(UdpSocket))) UdpSocket;
    lua_pushlightuserdata(L, &socket_metatable_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, -2);
    lua_rawseti(L, 1, socket_slot);
    return *socket;
}

int collect(lua_State* L) {
    static_cast<UdpSocket*>(lua_touserdata(L, 1))->~UdpSocket();
    return 0;
}

int64_t timeout_or_default(lua_State* L, int index, const LuaTask& task) {
    double timeout_ms = lua_tonumber(L, index);
    constexpr double timeout_ms_max = 1e12;
    if (timeout_ms >= 1) return int64_t(std::min(timeout_ms, timeout_ms_max));
    return task.conf->socket_read_timeout->count;
}

int udp(lua_State* L) {
    int count = lua_gettop(L);
    if (count) return luaL_error(L, "expecting zero arguments, but got %d", count);
    task_of(L);
    lua_createtable(L, 3, 1);
    lua_pushlightuserdata(L, &metatable_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_setmetatable(L, -2);
    return 1;
}

// The local address that bind() left in the table.
std::unique_ptr<core::Address> bound_address(lua_State* L) {
    lua_rawgeti(L, 1, bind_slot);
    auto address = std::make_unique<core::Address>();
    size_t size = 0;
    const char* text = lua_tolstring(L, -1, &size);
    bool given = text && core::Address::parse_ip({text, size}, *address);
    lua_pop(L, 1);
    return given ? std::move(address) : nullptr;
}

// Makes the socket ready to be connected by this task.
UdpSocket& prepare(lua_State* L, LuaTask& task, UdpSocket* known) {
    if (known && known->fd.valid()) {
        LOG(task.log(), debug, 0, "lua udp socket reconnect without shutting down");
        known->close();
    }
    if (known) LOG(task.log(), debug, 0, "lua reuse socket upstream ctx");
    UdpSocket& socket = known ? *known : make_socket(L);
    socket.owner = owner_of(task);
    socket.of_task = &task.log();
    socket.address = {};
    socket.local = bound_address(L);
    lua_rawgeti(L, 1, timeout_slot);
    socket.read_timeout_ms = timeout_or_default(L, -1, task);
    lua_pop(L, 1);
    socket.unlink();
    owned_by(task).push_back(socket);
    return socket;
}

int resolve(lua_State* L, LuaTask& task, UdpSocket& socket) {
    core::Resolver* resolver = socket_resolver(task);
    if (!resolver) {
        lua_pushnil(L);
        lua_pushfstring(L, "no resolver defined to resolve \"%s\"", socket.host.c_str());
        return 2;
    }
    auto known = resolver->find(socket.host);
    if (!known) return await<UdpResolve>(L, socket, *resolver);
    if (!known->ok()) return fail(L, known->error_text());
    return open_result(L, socket, choose_address(*known, socket.port));
}

int setpeername(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2 && count != 3) {
        return luaL_error(L, "ngx.socket.udp setpeername: expecting 2 or 3 arguments "
                             "(including the object), but seen %d", count);
    }
    LuaTask& task = task_of(L);
    if (!allowed(task, in_yieldable)) return refuse(L, task);
    luaL_checktype(L, 1, LUA_TTABLE);
    core::Slice host = check_slice(L, 2);
    lua_Integer port = count == 3 ? luaL_checkinteger(L, 3) : 0;
    if (port < 0 || port > 65535) {
        lua_pushnil(L);
        lua_pushfstring(L, "bad port number: %d", int(port));
        return 2;
    }
    UdpSocket* known = find_socket(L);
    if (known && known->owner && known->owner != owner_of(task)) {
        return luaL_error(L, "bad request");
    }
    if (known && known->wait) return fail(L, "socket busy");
    UdpSocket& socket = prepare(L, task, known);
    socket.host = host;
    socket.port = int(port);
    auto address = socket_address(host, int(port));
    if (!address) return fail(L, address.error().what);
    if (address->family() == AF_UNSPEC) return resolve(L, task, socket);
    return open_result(L, socket, *address);
}

// The connected socket of this task, or null when the call is over: its results are pushed.
UdpSocket* open_socket(lua_State* L, LuaTask& task, const char* doing) {
    UdpSocket* socket = find_socket(L);
    if (socket && socket->owner && socket->owner != owner_of(task)) luaL_error(L, "bad request");
    if (!socket || !socket->fd.valid()) {
        if (doing && task.conf->socket_log_errors) {
            LOG(task.log(), error, 0, "attempt to %s data on a closed socket: u:%p, c:%p", doing,
                static_cast<void*>(socket), static_cast<void*>(nullptr));
        }
        fail(L, "closed");
        return nullptr;
    }
    socket->of_task = &task.log();
    if (!socket->wait) return socket;
    fail(L, "socket busy");
    return nullptr;
}

// ---- sending ----

void bad_data(lua_State* L, const char* pattern, int type) {
    luaL_argerror(L, 2, lua_pushfstring(L, pattern, lua_typename(L, type)));
}

// An array table of strings, numbers and such tables; nothing else is let through.
void append_table(std::string& to, lua_State* L, int table) {
    luaL_checkstack(L, 4, "table nested too deeply");
    int length = 0;
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
        if (key < 1 || std::floor(key) != key) luaL_argerror(L, 2, "non-array table found");
        if (key > length) length = int(key);
    }
    for (int i = 1; i <= length; ++i) {
        lua_rawgeti(L, table, i);
        int type = lua_type(L, -1);
        if (type == LUA_TTABLE) append_table(to, L, lua_gettop(L));
        else if (type == LUA_TSTRING || type == LUA_TNUMBER) append_scalar(to, L, -1);
        else bad_data(L, "bad data type %s found", type);
        lua_pop(L, 1);
    }
}

// The datagram at index 2; texts as they are, others gathered in `room`.
core::Slice data_to_send(lua_State* L, std::string& room) {
    int type = lua_type(L, 2);
    switch (type) {
    case LUA_TSTRING: return check_slice(L, 2);
    case LUA_TNUMBER: case LUA_TNIL: case LUA_TBOOLEAN: append_scalar(room, L, 2); break;
    case LUA_TTABLE: append_table(room, L, 2); break;
    default:
        bad_data(L, "string, number, boolean, nil, or array table expected, got %s", type);
    }
    return room;
}

int send(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2) {
        return luaL_error(L, "expecting 2 arguments (including the object), but got %d", count);
    }
    LuaTask& task = task_of(L);
    UdpSocket* socket = open_socket(L, task, "send");
    if (!socket) return 2;
    std::string room;
    core::Slice data = data_to_send(L, room);
    ssize_t bytes;
    do {
        bytes = ::send(socket->fd.get(), data.data(), data.size(), MSG_NOSIGNAL);
    } while (bytes < 0 && errno == EINTR);
    int error = bytes < 0 ? errno : 0;
    LOG(socket->log(), debug, 0, "send: fd:%d %d of %d", socket->fd.get(), int(bytes),
        int(data.size()));
    if (error && error != EAGAIN) LOG(socket->log(), error, error, "send() failed");
    if (error) return fail_errno(L, error);
    if (size_t(bytes) != data.size()) return fail(L, "partial write");
    lua_pushinteger(L, 1);
    return 1;
}

// ---- the other methods ----

int receive(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1 && count != 2) {
        return luaL_error(L, "expecting 1 or 2 arguments (including the object), but got %d",
                          count);
    }
    LuaTask& task = task_of(L);
    double wanted = luaL_optnumber(L, 2, double(datagram_bytes_max));
    UdpSocket* socket = open_socket(L, task, "receive");
    if (!socket) return 2;
    bool in_range = wanted >= 0 && wanted < double(datagram_bytes_max);
    size_t size = in_range ? size_t(wanted) : datagram_bytes_max;
    LOG(task.log(), debug, 0, "lua udp socket receive buffer size: %zu", size);
    int results = receive_now(L, *socket, size);
    return results == Op::again ? await<UdpReceive>(L, *socket, size) : results;
}

int settimeout(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2) {
        return luaL_error(L, "ngx.socket settimeout: expecting at least 2 arguments "
                             "(including the object) but seen %d", count);
    }
    UdpSocket* socket = find_socket(L);
    LuaTask* task = find_task(L);
    if (socket && task) socket->read_timeout_ms = timeout_or_default(L, 2, *task);
    lua_rawseti(L, 1, timeout_slot);
    return 0;
}

int bind(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 2) return luaL_error(L, "expecting 2 arguments, but got %d", count);
    LuaTask& task = task_of(L);
    if (!allowed(task, in_yieldable)) return refuse(L, task);
    luaL_checktype(L, 1, LUA_TTABLE);
    core::Address address;
    if (!core::Address::parse_ip(check_slice(L, 2), address)) return fail(L, "bad address");
    lua_rawseti(L, 1, bind_slot);
    lua_pushinteger(L, 1);
    return 1;
}

int close(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1) {
        return luaL_error(L, "expecting 1 argument (including the object) but seen %d", count);
    }
    UdpSocket* socket = open_socket(L, task_of(L), nullptr);
    if (!socket) return 2;
    socket->close();
    lua_pushinteger(L, 1);
    return 1;
}

constexpr LuaFunction functions[] = {{"ngx.socket.udp", udp, in_yieldable}};
constexpr luaL_Reg methods[] = {{"setpeername", setpeername}, {"send", send}, {"receive", receive},
                                {"settimeout", settimeout}, {"bind", bind}, {"close", close}};

void install(lua_State* L) {
    lua_pushlightuserdata(L, &metatable_key);
    lua_createtable(L, 0, 8);
    for (const luaL_Reg& method : methods) {
        lua_pushcfunction(L, method.func);
        lua_setfield(L, -2, method.name);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_pushlightuserdata(L, &socket_metatable_key);
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
    lua_rawset(L, LUA_REGISTRYINDEX);
}

REGISTER_LUA_API(socket_udp, functions, install);

}  // namespace
}  // namespace lua
