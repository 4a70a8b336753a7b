// What Lua's output calls and handlers' ends do to a response: sending the head when it is due,
// holding the body back for HTTP/1.0, ending it. Used by lua/by_lua.cpp and lua/api/output.cpp.
#pragma once

#include "core/buffer.h"
#include "server/http/body.h"
#include "server/verdict.h"

namespace server {
class Request;
}

namespace lua {

struct LuaConf;
struct LuaRequest;

// The head, if it is not out yet. passed or rejected.
server::Verdict send_lua_head(LuaRequest& state, const LuaConf& conf);
// A piece of the body. passed or rejected.
server::Verdict send_lua_body(LuaRequest& state, const LuaConf& conf, core::Chain&& piece);
// The same for a short text, copied at once.
server::Verdict send_lua_text(LuaRequest& state, const LuaConf& conf, core::Slice text);
// The end of the response; harmless when it was sent before. passed or rejected.
server::Verdict end_lua_output(LuaRequest& state, const LuaConf& conf);

// How Lua has the request body read: as the location says, in one piece.
server::RequestBody::Options read_options(const server::Request& request);

}  // namespace lua
