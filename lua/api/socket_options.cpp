// tcpsock:setoption(), getoption() and getfd(): FFI on the socket's descriptor. The method tables
// that lualib/resty/core/socket.lua adds them to stand in the registry under upstream's names.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>

#include "core/log.h"
#include "lua/api/ffi.h"
#include "lua/api/socket_tcp.h"

using ngx_http_lua_socket_tcp_upstream_t = ngx_http_lua_socket_tcp_upstream_s;

namespace lua {
namespace {

struct Option {
    int level;
    int name;
};

// By the numbers that the Lua side gives, from 1 on.
constexpr Option options[] = {
    {SOL_SOCKET, SO_KEEPALIVE}, {SOL_SOCKET, SO_REUSEADDR},    {IPPROTO_TCP, TCP_NODELAY},
    {SOL_SOCKET, SO_SNDBUF},    {SOL_SOCKET, SO_RCVBUF},
#ifdef TCP_KEEPINTVL
    {IPPROTO_TCP, TCP_KEEPINTVL}, {IPPROTO_TCP, TCP_KEEPCNT},
#endif
};
constexpr int option_count = int(sizeof options / sizeof options[0]);

// The option and an open socket; null after the error was told.
const Option* find(const ngx_http_lua_socket_tcp_upstream_t* u, int option, unsigned char* err,
                   size_t* errlen) {
    if (!u || u->fd() < 0) {
        ffi_fail("closed", err, errlen);
        return nullptr;
    }
    if (option < 1 || option > option_count) {
        ffi_fail("unsupported option " + std::to_string(option), err, errlen);
        return nullptr;
    }
    return &options[option - 1];
}

int outcome(int status, unsigned char* err, size_t* errlen) {
    if (status == 0) return ffi_ok;
    return ffi_fail(core::error_name(errno), err, errlen);
}

void install(lua_State* L) {
    for (const char* name : {tcp_methods, body_methods, raw_methods}) {
        push_socket_methods(L, name);
        lua_pop(L, 1);
    }
}

REGISTER_LUA_API(socket_options, {}, install);

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_socket_tcp_getoption(ngx_http_lua_socket_tcp_upstream_t* u, int opt,
                                                  int* val, unsigned char* err,
                                                  size_t* errlen) {
    const lua::Option* option = lua::find(u, opt, err, errlen);
    if (!option) return lua::ffi_error;
    socklen_t size = sizeof *val;
    return lua::outcome(getsockopt(u->fd(), option->level, option->name, val, &size), err, errlen);
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_setoption(ngx_http_lua_socket_tcp_upstream_t* u, int opt,
                                                  int val, unsigned char* err, size_t* errlen) {
    const lua::Option* option = lua::find(u, opt, err, errlen);
    if (!option) return lua::ffi_error;
    int status = setsockopt(u->fd(), option->level, option->name, &val, sizeof val);
    return lua::outcome(status, err, errlen);
}

LUA_FFI int ngx_http_lua_ffi_socket_tcp_getfd(ngx_http_request_t*,
                                              ngx_http_lua_socket_tcp_upstream_t* u,
                                              char** errmsg) {
    *errmsg = nullptr;
    if (u && u->fd() >= 0) return u->fd();
    *errmsg = const_cast<char*>("closed");
    return -1;
}

// Puts another descriptor in the socket's place and returns its own, which another call puts back:
// lua-resty-core's tests provoke errors so. A negative one only asks.
LUA_FFI int ngx_http_lua_ffi_socket_tcp_hack_fd(ngx_http_lua_socket_tcp_upstream_t* u, int fd,
                                                unsigned char* err, size_t* errlen) {
    if (!u || u->fd() < 0) return lua::ffi_fail("closed", err, errlen);
    if (fd < 0) return u->fd();
    core::Stream& stream = u->connection->stream;
    int own = stream.release().release();
    stream = core::Stream(core::Fd(fd));
    return own;
}
