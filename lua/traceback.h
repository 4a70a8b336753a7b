// What is logged about an uncaught Lua error, in OpenResty's form. Used by the scheduler and by
// whoever runs Lua on the main thread.
#pragma once

#include <string>

#include "lua/phase.h"

struct lua_State;

namespace lua {

struct LuaThread;

// "runtime error: MESSAGE\nstack traceback:\ncoroutine 0:\n…" for the error at the top of the
// thread's stack; in phases that OpenResty runs as a plain call, "MESSAGE\nstack traceback:\n…".
std::string describe_failure(LuaThread& thread, int status);
// "lua entry thread aborted: ", "failed to run log_by_lua*: ", …
std::string failure_prefix(LuaPhase phase);
// The frames of one coroutine, a line each, with a line end before each.
void append_stack(std::string& text, lua_State* L);
// The stacks of a thread and of those that resumed or spawned it, below "stack traceback:".
void append_traceback(std::string& text, LuaThread& thread);

}  // namespace lua
