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

extern const std::span<const server::PhaseHandler> lua_phase_handlers;
extern const std::span<const server::Filter> lua_filters;
server::Verdict run_content(server::Request& request);

}  // namespace lua
