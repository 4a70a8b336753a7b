// What the FFI functions of lualib/resty/core/socket.lua see of a TCP socket of Lua's: the object
// behind tcpsock[1] begins with this.
#pragma once

struct ngx_http_lua_socket_tcp_upstream_s {
    int fd = -1;                 // -1: closed
};
