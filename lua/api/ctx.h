// ngx.ctx across internal redirects (lua_ctx_inherit). Called when a request's Lua state is made.
#pragma once

namespace lua {

struct LuaRequest;

// Takes over the ngx.ctx of the state this request had before it was redirected, if there is one.
void inherit_context(LuaRequest& fresh);

}  // namespace lua
