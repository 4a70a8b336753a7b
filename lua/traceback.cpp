// Texts about uncaught Lua errors; see traceback.h.
#include "lua/traceback.h"

#include <lua.hpp>

#include "core/text.h"
#include "lua/thread.h"

namespace lua {
namespace {

constexpr int depth_max = 22;         // frames shown of one coroutine
constexpr int coroutines_max = 5;

// Phases that OpenResty runs by a protected call rather than as a thread.
constexpr PhaseMask plain_phases =
    in(LuaPhase::set, LuaPhase::log, LuaPhase::header_filter, LuaPhase::body_filter,
       LuaPhase::balancer, LuaPhase::init_worker, LuaPhase::exit_worker,
       LuaPhase::ssl_session_store);

const char* status_text(int status) {
    switch (status) {
    case LUA_ERRRUN: return "runtime error";
    case LUA_ERRSYNTAX: return "syntax error";
    case LUA_ERRMEM: return "[lua] memory allocation error";
    case LUA_ERRERR: return "error handler error";
    }
    return "unknown error";
}

void append_frame(std::string& text, lua_State* L, lua_Debug& frame) {
    lua_getinfo(L, "Snl", &frame);
    text.append("\n\t").append(frame.short_src).append(":");
    if (frame.currentline > 0) text += core::format("%d:", frame.currentline);
    if (*frame.namewhat) {
        text.append(" in function '").append(frame.name).append("'");
    } else if (*frame.what == 'm') {
        text += " in main chunk";
    } else if (*frame.what == 'C' || *frame.what == 't') {
        text += " ?";
    } else {
        text += core::format(" in function <%s:%d>", frame.short_src, frame.linedefined);
    }
}

// Whose code is above this one's in the traceback: the resumer, or the spawner if it still lives.
LuaThread* caller_of(LuaThread& thread) {
    if (thread.kind == LuaThread::coroutine) return thread.parent;
    return thread.spawner ? LuaThread::of(thread.spawner) : nullptr;
}

}  // namespace

void append_stack(std::string& text, lua_State* L) {
    lua_Debug frame;
    for (int level = 0; lua_getstack(L, level, &frame); ++level) {
        if (level >= depth_max) {
            text += "\n\t...";
            break;
        }
        append_frame(text, L, frame);
    }
}

void append_traceback(std::string& text, LuaThread& thread) {
    text += "stack traceback:";
    int count = 0;
    for (LuaThread* at = &thread; at && count < coroutines_max; at = caller_of(*at)) {
        if (at->state == LuaThread::dead && count) break;
        text += core::format("\ncoroutine %d:", count++);
        append_stack(text, at->L);
    }
}

std::string describe_failure(LuaThread& thread, int status) {
    lua_State* L = thread.L;
    const char* message = lua_isstring(L, -1) ? lua_tostring(L, -1) : nullptr;
    bool plain = thread.kind == LuaThread::entry && (uint32_t(thread.task->phase) & plain_phases);
    if (plain) {
        if (!message) return "unknown reason";
        luaL_traceback(L, L, message, 0);
        std::string text = lua_tostring(L, -1);
        lua_pop(L, 1);
        return text;
    }
    std::string text = status_text(status);
    text.append(": ").append(message ? message : "unknown reason").append("\n");
    append_traceback(text, thread);
    return text;
}

std::string failure_prefix(LuaPhase phase) {
    if (!(uint32_t(phase) & plain_phases)) return "lua entry thread aborted: ";
    if (phase == LuaPhase::init_worker) return "init_worker_by_lua error: ";
    if (phase == LuaPhase::exit_worker) return "exit_worker_by_lua error: ";
    if (phase == LuaPhase::ssl_session_store) return "failed to run session_store_by_lua*: ";
    return std::string("failed to run ") + context_name(phase) + ": ";
}

}  // namespace lua
