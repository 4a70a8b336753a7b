// Values kept with a connection, and the functions of lua-resty-core for them.
#include "lua/api/socket_values.h"

#include <algorithm>

#include "lua/api/ffi.h"
#include "lua/api/socket_tcp.h"

namespace lua {

static auto find_pair(std::list<SocketValues::Pair>& pairs, uint64_t key) {
    return std::find_if(pairs.begin(), pairs.end(), [&](auto& pair) { return pair.key == key; });
}

bool SocketValues::add(Pair pair, Pair* evicted) {
    bool full = false;
    auto known = find_pair(pairs_, pair.key);
    if (known != pairs_.end()) {
        pairs_.erase(known);
    } else if (capacity_ && pairs_.size() >= capacity_) {
        full = true;
        *evicted = pairs_.back();
        pairs_.pop_back();
    }
    pairs_.push_front(pair);
    return full;
}

const SocketValues::Pair* SocketValues::find(uint64_t key) {
    auto known = find_pair(pairs_, key);
    if (known == pairs_.end()) return nullptr;
    pairs_.splice(pairs_.begin(), pairs_, known);
    return &pairs_.front();
}

bool SocketValues::remove(uint64_t key) {
    auto known = find_pair(pairs_, key);
    if (known == pairs_.end()) return false;
    pairs_.erase(known);
    return true;
}

static SocketValues* values_of(TcpSocket* socket) {
    return socket->connection ? socket->connection->values.get() : nullptr;
}

static int fail(const char* why, char** error) {
    *error = const_cast<char*>(why);
    return ffi_error;
}

}  // namespace lua

using lua::SocketValues;

LUA_FFI int ngx_http_lua_ffi_socket_tcp_init_udata_queue(lua::TcpSocket* u, int capacity,
                                                         char** error) {
    if (!u->connection) return lua::fail("closed", error);
    auto& values = u->connection->values;
    if (!values) values.reset(new SocketValues(size_t(capacity > 0 ? capacity : 0)));
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_count_udata(lua::TcpSocket* u) {
    SocketValues* values = lua::values_of(u);
    return values ? int(values->count()) : lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_add_udata(lua::TcpSocket* u, uint64_t key, uint64_t value,
                                                  uint64_t* evicted_key, uint64_t* evicted_value,
                                                  char** error) {
    SocketValues* values = lua::values_of(u);
    if (!values) return lua::fail("no udata queue", error);
    SocketValues::Pair evicted{};
    if (!values->add({key, value}, &evicted)) return lua::ffi_ok;
    *evicted_key = evicted.key;
    *evicted_value = evicted.value;
    return lua::ffi_done;
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_get_udata(lua::TcpSocket* u, uint64_t key, uint64_t* value,
                                                  char** error) {
    SocketValues* values = lua::values_of(u);
    if (!values) return lua::fail("no udata queue", error);
    const SocketValues::Pair* found = values->find(key);
    if (!found) return lua::fail("not found", error);
    *value = found->value;
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_del_udata(lua::TcpSocket* u, uint64_t key, char** error) {
    SocketValues* values = lua::values_of(u);
    if (!values) return lua::fail("no udata queue", error);
    return values->remove(key) ? lua::ffi_ok : lua::fail("not found", error);
}
