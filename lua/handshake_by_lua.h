// Scripts of TLS handshakes on the server's side: ssl_client_hello_by_lua,
// ssl_session_fetch_by_lua, ssl_certificate_by_lua, ssl_session_store_by_lua. Their tasks have no
// request; the API (lua/api/ssl*.cpp, ctx.cpp) finds the handshake through what is declared here.
#pragma once

#include "lua/thread.h"

struct ssl_st;

namespace server {
class Connection;
class Handshake;
}

namespace lua {

constexpr PhaseMask in_handshake = in(LuaPhase::ssl_client_hello, LuaPhase::ssl_session_fetch,
                                      LuaPhase::ssl_cert, LuaPhase::ssl_session_store);

// What the end of a script means for its handshake, with clients and with upstream servers alike:
// uncaught errors and ngx.exit(ngx.ERROR) end it.
bool refuses_handshake(const LuaTask& task);

// Null when the task is none of a handshake.
server::Handshake* handshake_of(const LuaTask& task);

// The client's connection, of a handshake's task or of a request. Null when there is none, or the
// handshake is over without the task.
server::Connection* client_connection(const LuaTask& task);

// The TLS session of the client's connection: of a handshake's task, or of a request; null when
// there is none.
ssl_st* client_tls(const LuaTask& task);

// Where the index of the ngx.ctx table is kept that all scripts of a connection share. Null when
// the task is none of a handshake.
int* handshake_ctx_ref(LuaTask& task);
// The same for a request of that connection, whose table inherits from it; negative: there is none.
int inherited_ctx_ref(const LuaTask& task);

}  // namespace lua
