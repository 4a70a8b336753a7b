// Running the handlers of the by_lua directives; the table itself is in by_lua.cpp.
#pragma once

#include <span>

#include "core/buffer.h"
#include "lua/conf.h"
#include "lua/thread.h"

namespace lua {

// The piece of a response that body_filter_by_lua sees: ngx.arg[1] and ngx.arg[2].
struct BodyPiece {
    core::Chain* chain;
    bool eof = false;
};

// The arguments of set_by_lua: ngx.arg[1]…
struct SetArguments {
    const core::Slice* values;
    int count;
};

// The machine that runs a request's Lua: the process's, or its own with lua_code_cache off.
// Null after logging when that cannot be made.
LuaVm* vm_for(server::Request& request, const LuaConf& conf);

// ---- for functions that no directive names (lua/handler_run.cpp) ----

// What the end of a task of this phase means for its request; the task is over.
server::Verdict verdict_of(LuaTask& task, HandlerSlot slot);
server::Verdict header_filter_verdict(const LuaTask& task);
bool body_filter_refused(const LuaTask& task);
// lua_check_client_abort of a task that waits.
void watch_client(server::Request& request, LuaTask& task);
// Reads ranges of files in: scripts see bytes.
void read_files(core::Chain& chain);

extern const std::span<const server::PhaseHandler> lua_phase_handlers;
extern const std::span<const server::Filter> lua_filters;
server::Verdict run_content(server::Request& request);

}  // namespace lua
