// Handlers that LuaJIT can compile. A chunk of Lua code is a function of variable arguments, and
// LuaJIT counts no calls of those: whatever a handler does outside a loop stays interpreted, FFI
// calls included, which then cost about 500 instructions each. A handler that does not use `...` is
// as well a function without arguments. Called by lua/code_cache.cpp.
#pragma once

#include <lua.hpp>

namespace lua {

// Replaces the chunk on top of the stack by the same one taking no arguments, where it names none.
// Everything else about it, lines and names in tracebacks included, stays as it is.
void fix_arguments(lua_State* L);

}  // namespace lua
