// Where Lua's sockets connect to: what the host argument means, and which resolver turns a name
// into addresses. Used by socket_tcp* and socket_udp.cpp; knows nothing of sockets' lives.
#pragma once

#include <cstdint>

#include "core/resolver.h"
#include "core/slice.h"
#include "core/socket.h"
#include "lua/thread.h"

namespace lua {

// The address that `host` (and a port, when it has none of its own) says: an IP literal or
// "unix:/path". Family AF_UNSPEC when it is a name, to be resolved. The error is the text for Lua:
// `failed to parse host name "…": invalid port`.
core::Result<core::Address> socket_address(core::Slice host, int port);

// The resolver for sockets of this task: of the location, or of the system where none is
// configured. Null with `lua_compat openresty` and no `resolver` line: `no resolver defined to
// resolve "…"`.
core::Resolver* socket_resolver(const LuaTask& task);
int64_t resolver_timeout_ms(const LuaTask& task);

// One of the addresses by chance, as upstream chooses, with the port.
core::Address choose_address(const core::Resolution& found, int port);

}  // namespace lua
