// Pieces of a Lua machine that machines of worker threads (lua/api/worker_thread.cpp) have as well
// as LuaVm, which makes them.
#pragma once

#include <lua.hpp>

namespace lua {

// A C function under a dotted name, with an upvalue or none. Missing tables on the way are made.
void install_function(lua_State* L, const char* name, lua_CFunction function,
                      void* upvalue = nullptr);
// require() finds what is in lualib/.
void install_embedded_modules(lua_State* L);

}  // namespace lua
