// tcpsock:connect(): a connection from the pool, or a new one: wait for a place in the pool,
// resolve the name, connect.
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "core/log.h"
#include "core/resolver.h"
#include "lua/api/socket_address.h"
#include "lua/api/socket_tcp.h"

namespace lua {
namespace {

struct Options {
    int64_t pool_size = 0;               // 0: none given
    int64_t backlog = -1;
    bool pool_named = false;
    core::Slice pool;
};

// How a step towards a connection ended.
enum class Step : uint8_t { connected, waits, failed };

// Why a connect failed: errno (or a timeout), or a text.
struct Refusal {
    SocketFailure failure;
    std::string text;
    int push(lua_State* L) const {
        return text.empty() ? push_failure(L, failure) : push_error(L, text);
    }
};

void log_refused(const TcpSocket& socket, const core::Address* bound, int error) {
    if (bound && (error == EADDRNOTAVAIL || error == EADDRINUSE)) {
        std::string name = bound->port() ? bound->text() : bound->ip_text();
        LOG(socket.log(), crit, error, "bind(%s) failed", name.c_str());
        return;
    }
    std::string name = socket.remote.text();
    switch (error) {
    case ECONNREFUSED: case EAGAIN: case ECONNRESET: case ENETDOWN: case ENETUNREACH:
    case EHOSTDOWN: case EHOSTUNREACH:
        LOG(socket.log(), error, error, "connect() to %s failed", name.c_str());
        break;
    default:
        LOG(socket.log(), crit, error, "connect() to %s failed", name.c_str());
    }
}

// Begins to connect to socket.remote. The slot goes to the connection.
Step start(TcpSocket& socket, const core::ConnectOptions& options, PoolSlot& slot,
           Refusal& refusal) {
    core::Result<core::Fd> fd = core::connect_to(socket.remote, options);
    if (!fd) {
        int error = errno;
        log_refused(socket, options.bind, error);
        refusal.failure = {SocketFailure::system, error};
        return Step::failed;
    }
    int error = 0;
    auto* connection = SocketConnection::open(core::Stream(std::move(*fd)), std::move(slot),
                                              &error);
    if (!connection) {
        refusal.failure = {SocketFailure::system, error};
        return Step::failed;
    }
    connection->host = socket.host;
    connection->remote = socket.remote;
    socket.attach(*connection);
    bool local = socket.remote.family() == AF_UNIX;
    connection->nodelay_set = local;
    return local ? Step::connected : Step::waits;
}

// What bind() and setoption("ip-transparent") have said.
struct Source {
    const core::Address* address;
    bool transparent;
};

core::ConnectOptions connect_options(const Source& source) {
    core::ConnectOptions options;
    options.bind = source.address;
    options.transparent = source.transparent;
    return options;
}

// ---- the wait ----

class Connect final : public SocketOp, public PoolWaiter {
  public:
    enum class State : uint8_t { queued, turn, resolving, connecting, done };
    // In the state that comes next: queued in the pool, resolving a name, or connecting already.
    Connect(LuaThread& thread, TcpSocket& socket, State state, PoolSlot slot,
            const Source& source);
    ~Connect() override;

    void ready() override;
    void timed_out() override;
    void turn_came() override;
    int push_results(lua_State* L) override;
    const char* name() const override;

  private:
    void enter(State state);
    void resolve();
    void resolved(const core::Resolution& found);
    void try_again();
    void take(Step step);
    void fail(SocketFailure failure) {
        refusal_.failure = failure;
        take(Step::failed);
    }

    State state_ = State::done;
    PoolSlot slot_;
    std::unique_ptr<core::ResolveQuery> query_;
    core::Deferred turn_;
    Refusal refusal_;
    Source source_;
    core::Address bind_;
};

Connect::Connect(LuaThread& thread, TcpSocket& socket, State state, PoolSlot slot,
                 const Source& source)
    : SocketOp(thread, socket, &TcpSocket::connecting), slot_(std::move(slot)),
      turn_([](void* self) { static_cast<Connect*>(self)->try_again(); }, this),
      source_(source) {
    if (source.address) {
        bind_ = *source.address;
        source_.address = &bind_;
    }
    enter(state);
}

Connect::~Connect() {
    if (state_ == State::queued) {
        slot_.pool()->stop_waiting(*this);
    } else if (state_ == State::turn) {
        slot_.pool()->end_turn();        // another's, when the slot goes
    }
}

void Connect::enter(State state) {
    state_ = state;
    switch (state) {
    case State::queued:
        set_timer(socket().connect_timeout_ms);
        slot_.pool()->wait(*this);
        break;
    case State::resolving:
        resolve();
        break;
    case State::connecting:
        set_timer(socket().connect_timeout_ms);
        break;
    case State::turn:
        cancel_timer();
        core::Reactor::current().at_end(core::Reactor::work, turn_);
        break;
    case State::done:
        break;
    }
}

void Connect::turn_came() { enter(State::turn); }

// A connection or a place has become free: as in the first try, but without queueing again.
void Connect::try_again() {
    SocketPool& pool = *slot_.pool();
    pool.end_turn();
    state_ = State::done;
    if (abandoned()) return slot_.release();
    if (SocketConnection* idle = pool.take()) {
        idle->end_idle(socket());
        socket().remote = idle->remote;
        socket().attach(*idle);
        slot_.release();
        return take(Step::connected);
    }
    core::Result<core::Address> address = socket_address(socket().host, socket().port);
    if (!address) {
        refusal_.text = address.error().what;
        return take(Step::failed);
    }
    socket().remote = *address;
    if (address->family() == AF_UNSPEC) return enter(State::resolving);
    take(start(socket(), connect_options(source_), slot_, refusal_));
}

void Connect::resolve() {
    core::Resolver* resolver = socket_resolver(task());
    if (!resolver) {
        refusal_.text = "no resolver defined to resolve \"" + socket().host + "\"";
        return take(Step::failed);
    }
    query_ = resolver->resolve(socket().host,
                               [this](const core::Resolution& found) { resolved(found); },
                               core::ResolveKind::addresses, resolver_timeout_ms(task()));
}

void Connect::resolved(const core::Resolution& found) {
    if (abandoned()) return;
    if (!found.ok() || found.addresses.empty()) {
        core::ResolveStatus status =
            found.ok() ? core::ResolveStatus::host_not_found : found.status;
        refusal_.text = socket().host + " could not be resolved (" +
                        std::to_string(int(status)) + ": " + resolve_status_text(status) + ")";
        return take(Step::failed);
    }
    socket().remote = choose_address(found, socket().port);
    take(start(socket(), connect_options(source_), slot_, refusal_));
}

void Connect::take(Step step) {
    if (step == Step::waits) return enter(State::connecting);
    state_ = State::done;
    if (step == Step::failed) slot_.release();
    finish();
}

void Connect::ready() {
    if (state_ != State::connecting) return;
    int error = core::socket_error(socket().fd());
    if (error == 0) return take(Step::connected);
    if (socket().conf->socket_log_errors) log_connection_error(socket(), error, "connect()");
    fail({SocketFailure::system, error});
}

void Connect::timed_out() {
    if (socket().conf->socket_log_errors) {
        if (state_ == State::queued) {
            LOG(socket().log(), error, 0, "lua tcp socket queued connect timed out, when trying to "
                "connect to %s:%d", socket().host.c_str(), socket().port);
        } else {
            LOG(socket().log(), error, 0, "lua tcp socket connect timed out");
        }
    }
    if (state_ == State::queued) slot_.pool()->stop_waiting(*this);
    fail({SocketFailure::timeout});
}

int Connect::push_results(lua_State* L) {
    if (abandoned()) return push_failure(L, {SocketFailure::closed});
    leave();
    if (!refusal_.failure && refusal_.text.empty()) {
        lua_pushinteger(L, 1);
        return 1;
    }
    socket().close();
    return refusal_.push(L);
}

const char* Connect::name() const {
    switch (state_) {
    case State::queued:
    case State::turn: return "connect (queued)";
    case State::resolving: return "connect (resolving)";
    case State::connecting:
    case State::done: break;
    }
    return "connect";
}

// ---- arguments ----

[[noreturn]] void bad_option(lua_State* L, int table, const char* pattern, const char* name,
                             const char* what) {
    luaL_argerror(L, table, lua_pushfstring(L, pattern, name, what));
    __builtin_unreachable();
}

Options read_options(lua_State* L, int table, const LuaConf& conf) {
    Options options;
    lua_getfield(L, table, "pool_size");
    if (lua_isnumber(L, -1)) {
        options.pool_size = int64_t(lua_tointeger(L, -1));
        if (options.pool_size <= 0) {
            bad_option(L, table, "bad \"%s\" option value: %s", "pool_size",
                       lua_tostring(L, -1));
        }
    } else if (!lua_isnil(L, -1)) {
        bad_option(L, table, "bad \"%s\" option type: %s", "pool_size", luaL_typename(L, -1));
    }
    lua_getfield(L, table, "backlog");
    if (lua_isnumber(L, -1)) {
        options.backlog = int64_t(lua_tointeger(L, -1));
        if (options.backlog < 0) {
            bad_option(L, table, "bad \"%s\" option value: %s", "backlog", lua_tostring(L, -1));
        }
        if (options.pool_size == 0) options.pool_size = conf.socket_pool_size;
    }
    lua_getfield(L, table, "pool");
    switch (lua_type(L, -1)) {
    case LUA_TNUMBER:
    case LUA_TSTRING:
        options.pool_named = true;
        options.pool = check_slice(L, -1);     // lives on the stack until we return
        return options;
    case LUA_TNIL:
        break;
    default:
        bad_option(L, table, "bad \"%s\" option type: %s", "pool", luaL_typename(L, -1));
    }
    return options;
}

bool is_unix(core::Slice host) {
    return host.size() >= 5 && ::strncasecmp(host.data(), "unix:", 5) == 0;
}

// The socket's object, free for a new connection; null after it pushed why not (two values).
TcpSocket* object_for_connect(lua_State* L, LuaTask& task) {
    TcpSocket* socket = socket_at(L);
    if (!socket) {
        TcpSocket& made = push_socket_object(L, task);
        lua_rawseti(L, 1, handle_index);
        return &made;
    }
    if (socket->connection) check_owner(L, *socket);
    if (const char* busy = busy_text(*socket, busy_connecting | busy_reading | busy_writing)) {
        push_error(L, busy);
        return nullptr;
    }
    if (socket->downstream()) luaL_error(L, "attempt to re-connect a request socket");
    socket->close();
    socket->forget_handshake();
    socket->ssl_trusted_store = nullptr;
    socket->set_owner(task);
    return socket;
}

int stored_number(lua_State* L, int index) {
    lua_rawgeti(L, 1, index);
    int value = int(lua_tointeger(L, -1));
    lua_pop(L, 1);
    return value;
}

void read_timeouts(lua_State* L, TcpSocket& socket) {
    const LuaConf& conf = *socket.conf;
    int connect = stored_number(L, connect_timeout_index);
    int send = stored_number(L, send_timeout_index);
    int read = stored_number(L, read_timeout_index);
    socket.connect_timeout_ms = connect > 0 ? connect : int(conf.socket_connect_timeout->count);
    socket.send_timeout_ms = send > 0 ? send : int(conf.socket_send_timeout->count);
    socket.read_timeout_ms = read > 0 ? read : int(conf.socket_read_timeout->count);
}

Source source_of(lua_State* L) {
    lua_rawgeti(L, 1, bind_index);
    lua_rawgeti(L, 1, transparent_index);
    Source source{static_cast<const core::Address*>(lua_touserdata(L, -2)),
                  lua_toboolean(L, -1) && lua_touserdata(L, -2)};
    lua_pop(L, 2);
    return source;
}

// ---- the call ----

// Connects anew; the pool (when there is one) counts it already.
int connect_now(lua_State* L, LuaTask& task, TcpSocket& socket, PoolSlot slot) {
    LOG(task.log(), debug, 0, "lua tcp socket connect timeout: %d", socket.connect_timeout_ms);
    core::Result<core::Address> address = socket_address(socket.host, socket.port);
    if (!address) return push_error(L, address.error().what);
    socket.remote = *address;
    Source source = source_of(L);
    if (address->family() == AF_UNSPEC) {
        core::Resolver* resolver = socket_resolver(task);
        auto known = resolver ? resolver->find(socket.host) : nullptr;
        if (!known || !known->ok() || known->addresses.empty()) {
            return await_socket<Connect>(L, socket, Connect::State::resolving, std::move(slot),
                                         source);
        }
        socket.remote = choose_address(*known, socket.port);
    }
    Refusal refusal;
    switch (start(socket, connect_options(source), slot, refusal)) {
    case Step::waits:
        return await_socket<Connect>(L, socket, Connect::State::connecting, PoolSlot(), source);
    case Step::connected:
        lua_pushinteger(L, 1);
        return 1;
    case Step::failed:
        break;
    }
    socket.close();
    return refusal.push(L);
}

int connect_with(lua_State* L, LuaTask& task, TcpSocket& socket, const Options& options) {
    SocketPool* pool = SocketPool::find(socket.pool_key);
    if (!pool && options.pool_size > 0) {
        pool = &SocketPool::make(socket.pool_key, options.pool_size, options.backlog);
    }
    if (!pool) return connect_now(L, task, socket, {});
    if (SocketConnection* idle = pool->take()) {
        idle->end_idle(socket);
        socket.host = idle->host;
        socket.remote = idle->remote;
        socket.attach(*idle);
        lua_pushinteger(L, 1);
        return 1;
    }
    PoolSlot slot(*pool);
    if (pool->backlog() < 0 || pool->connections() <= pool->size()) {
        return connect_now(L, task, socket, std::move(slot));
    }
    if (pool->connections() > pool->size() + pool->backlog()) {
        ++pool->counts.refused;
        return push_error(L, "too many waiting connect operations");
    }
    return await_socket<Connect>(L, socket, Connect::State::queued, std::move(slot),
                                 source_of(L));
}

void make_pool_key(TcpSocket& socket, const Options& options, core::Slice host, bool ported) {
    if (options.pool_named) {
        socket.pool_key = options.pool;
        return;
    }
    socket.pool_key = host;
    if (!ported) return;
    socket.pool_key += ':';
    socket.pool_key += std::to_string(socket.port);
}

}  // namespace

int socket_connect(lua_State* L) {
    int count = lua_gettop(L);
    if (count < 2 || count > 4) {
        return luaL_error(L, "ngx.socket connect: expecting 2, 3, or 4 arguments (including the "
                             "object), but seen %d", count);
    }
    LuaTask& task = task_of(L);
    if (!allowed(task, in_yieldable)) return refuse(L, task);
    luaL_checktype(L, 1, LUA_TTABLE);
    core::Slice host = check_slice(L, 2);
    Options options;
    int arguments = count;
    if (lua_type(L, count) == LUA_TTABLE) {
        options = read_options(L, count, *task.conf);
        --arguments;
    }
    bool ported = arguments >= 3 && lua_isnumber(L, 3);
    int port = ported ? int(lua_tointeger(L, 3)) : 0;
    if (port < 0 || port > 65535) {
        lua_pushnil(L);
        lua_pushfstring(L, "bad port number: %d", port);
        return 2;
    }
    if (!ported && !is_unix(host)) return push_error(L, "missing the port number");
    TcpSocket* socket = object_for_connect(L, task);
    if (!socket) return 2;
    socket->host = host;
    socket->port = port;
    socket->remote = {};
    make_pool_key(*socket, options, host, ported);
    read_timeouts(L, *socket);
    return connect_with(L, task, *socket, options);
}

}  // namespace lua
