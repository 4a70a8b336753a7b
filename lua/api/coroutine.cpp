// coroutine.*: where the scheduler runs the caller, a coroutine is resumed by the scheduler, so
// that what waits inside it waits without blocking; elsewhere (init_by_lua, inside require or a
// gsub callback) it is resumed on the C stack, as plain Lua does.
#include "lua/api.h"

namespace lua {
namespace {

enum class Status : uint8_t { running, suspended, normal, dead, zombie };
constexpr const char* status_names[] = {"running", "suspended", "normal", "dead", "zombie"};

Status status_of(lua_State* L, lua_State* which) {
    if (which == L) return Status::running;
    if (lua_getexdata2(which) == &ended_thread) return Status::dead;
    if (const LuaThread* thread = LuaThread::of(which)) {
        switch (thread->state) {
        case LuaThread::normal: return Status::normal;
        case LuaThread::zombie: return Status::zombie;
        case LuaThread::dead: return Status::dead;
        default: return Status::running;
        }
    }
    int status = lua_status(which);
    if (status == LUA_YIELD) return Status::suspended;
    if (status != 0) return Status::dead;
    lua_Debug frame;
    if (lua_getstack(which, 0, &frame)) return Status::normal;
    return lua_gettop(which) ? Status::suspended : Status::dead;
}

lua_State* check_coroutine(lua_State* L, int index) {
    lua_State* which = lua_tothread(L, index);
    luaL_argcheck(L, which, index, "coroutine expected");
    return which;
}

// The scheduler's thread of L where it may hand over to it; null where it may not. Upstream runs
// some phases as plain calls, without it.
LuaThread* schedulable(lua_State* L) {
    LuaThread* thread = LuaThread::of(L);
    if (!thread || !lua_isyieldable(L) || !allowed(*thread->task, in_yieldable)) return nullptr;
    return thread;
}

// Hands over to the scheduler, which runs `which` with the `count` values at the top of L.
int resume_by_scheduler(lua_State* L, LuaThread& thread, lua_State* which, int count,
                        bool wrapped) {
    luaL_checkstack(which, count, "too many arguments");
    lua_xmove(L, which, count);
    LuaThread& child = *take_thread(*thread.task, which, LuaThread::coroutine);
    child.parent = &thread;
    child.wrapped = wrapped;
    thread.call = LuaThread::resume;
    thread.called = &child;
    thread.called_values = count;
    return lua_yield(L, lua_gettop(L));
}

// On the C stack. Its results, or one error value, are then on top of L; negative when it failed.
int resume_here(lua_State* L, lua_State* which, int count) {
    luaL_checkstack(which, count, "too many arguments");
    lua_xmove(L, which, count);
    lua_setexdata(which, find_task(L));
    int status = lua_resume(which, count);
    int results = status == 0 || status == LUA_YIELD ? lua_gettop(which) : 1;
    luaL_checkstack(L, results + 1, "too many results");
    lua_xmove(which, L, results);
    return status == 0 || status == LUA_YIELD ? results : -1;
}

int create(lua_State* L) {
    bool is_lua = lua_isfunction(L, 1) && !lua_iscfunction(L, 1);
    luaL_argcheck(L, is_lua || (lua_isfunction(L, 1) && !compat_openresty()), 1,
                  "Lua function expected");
    lua_State* fresh = lua_newthread(L);
    lua_setexdata2(fresh, nullptr);
    lua_pushvalue(L, 1);
    lua_xmove(L, fresh, 1);
    return 1;
}

int resume(lua_State* L) {
    lua_State* which = check_coroutine(L, 1);
    Status status = status_of(L, which);
    if (status != Status::suspended) {
        lua_pushboolean(L, 0);
        lua_pushfstring(L, "cannot resume %s coroutine", status_names[size_t(status)]);
        return 2;
    }
    int count = lua_gettop(L) - 1;
    if (LuaThread* thread = schedulable(L))
        return resume_by_scheduler(L, *thread, which, count, false);
    int results = resume_here(L, which, count);
    lua_pushboolean(L, results >= 0);
    int given = results >= 0 ? results : 1;
    lua_insert(L, -1 - given);
    return given + 1;
}

int yield(lua_State* L) { return lua_yield(L, lua_gettop(L)); }

int status(lua_State* L) {
    lua_pushstring(L, status_names[size_t(status_of(L, check_coroutine(L, 1)))]);
    return 1;
}

// What coroutine.wrap returns, for `lua_compat openresty`: an error in it fails its caller, past
// any pcall.
int wrapped_call(lua_State* L) {
    lua_State* which = lua_tothread(L, lua_upvalueindex(1));
    Status status = status_of(L, which);
    if (status != Status::suspended)
        return luaL_error(L, "cannot resume %s coroutine", status_names[size_t(status)]);
    int count = lua_gettop(L);
    if (LuaThread* thread = schedulable(L))
        return resume_by_scheduler(L, *thread, which, count, true);
    int results = resume_here(L, which, count);
    if (results >= 0) return results;
    if (lua_isstring(L, -1)) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

int wrap(lua_State* L) {
    create(L);
    lua_pushcclosure(L, wrapped_call, 1);
    return 1;
}

// Without upstream's limit an error in a wrapped coroutine is raised where it was called, so that
// pcall catches it.
constexpr char wrap_text[] = R"lua(
local coroutine, error, type = coroutine, error, type
local create, resume = coroutine.__create, coroutine.__resume

local function check(ok, ...)
    if ok then
        return ...
    end
    return error((...), 0)
end

function coroutine.wrap(f)
    local co = create(f)
    return function(...)
        return check(resume(co, ...))
    end
end
coroutine.__wrap = coroutine.wrap
)lua";

struct Entry {
    const char* name;
    lua_CFunction function;
};
constexpr Entry entries[] = {
    {"create", create}, {"resume", resume}, {"yield", yield}, {"status", status}, {"wrap", wrap},
};

// Upstream's names: _create is plain Lua's, __create the scheduler's.
void install(lua_State* L) {
    lua_getglobal(L, "coroutine");
    for (const Entry& entry : entries) {
        lua_getfield(L, -1, entry.name);
        lua_setfield(L, -2, (std::string("_") + entry.name).c_str());
        lua_pushcfunction(L, entry.function);
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, (std::string("__") + entry.name).c_str());
        lua_setfield(L, -2, entry.name);
    }
    if (compat_openresty()) {
        lua_pushnil(L);
        lua_setfield(L, -2, "isyieldable");      // upstream's table has none
        return;
    }
    if (luaL_loadbuffer(L, wrap_text, sizeof wrap_text - 1, "=coroutine.wrap") == 0)
        lua_pcall(L, 0, 0, 0);
}

REGISTER_LUA_API(coroutine, {}, install);

}  // namespace
}  // namespace lua
