// How long Lua handlers take: the scheduler says when one begins and ends. What is shown of it, and
// the other metrics of the machine, are in metrics.cpp.
#pragma once

#include <cstdint>

namespace lua {

struct LuaTask;

// Only while server::metrics_on.
void begin_measuring(LuaTask& task);
void end_measuring(LuaTask& task);     // task.started is not 0

}  // namespace lua
