// ngx.thread: light threads.
#include "lua/api.h"

namespace lua {
namespace {

int spawn(lua_State* L) {
    LuaTask& task = task_of(L);
    luaL_argcheck(L, lua_isfunction(L, 1) && !lua_iscfunction(L, 1), 1, "Lua function expected");
    LuaThread& spawner = waiting_thread(L);
    int count = lua_gettop(L);
    LuaThread& thread = create_light_thread(task, L);
    lua_insert(L, 1);                      // the new thread, the function, its arguments
    lua_checkstack(thread.L, count);
    lua_xmove(L, thread.L, count);
    ++task.light_threads;
    spawner.call = LuaThread::spawn;
    spawner.called = &thread;
    spawner.called_values = count - 1;
    return lua_yield(L, 1);
}

// The light thread given as an argument, which must be this thread's own; null when it is over.
LuaThread* check_child(lua_State* L, int index) {
    lua_State* which = lua_tothread(L, index);
    luaL_argcheck(L, which, index, "lua thread expected");
    if (lua_getexdata2(which) == &ended_thread) return nullptr;
    LuaThread* thread = LuaThread::of(which);
    if (!thread || thread->kind != LuaThread::light) {
        luaL_error(L, "attempt to wait on a coroutine that is not a user thread");
        return nullptr;
    }
    if (thread->spawner != L) {
        luaL_error(L, "only the parent coroutine can wait on the thread");
        return nullptr;
    }
    return thread;
}

int give_results(lua_State* L, LuaThread& zombie) {
    int count = lua_gettop(zombie.L);
    luaL_checkstack(L, count, "too many results");
    lua_xmove(zombie.L, L, count);
    release_light_thread(zombie);
    return count;
}

int wait(lua_State* L) {
    task_of(L);
    int count = lua_gettop(L);
    if (count == 0) return luaL_error(L, "at least one coroutine should be specified");
    LuaThread& self = waiting_thread(L);
    bool any = false;
    for (int i = 1; i <= count; ++i) {
        LuaThread* child = check_child(L, i);
        if (!child) continue;
        if (child->state == LuaThread::zombie) return give_results(L, *child);
        any = true;
    }
    if (!any) {
        lua_pushnil(L);
        lua_pushliteral(L, "already waited or killed");
        return 2;
    }
    for (int i = 1; i <= count; ++i)
        if (LuaThread* child = check_child(L, i)) child->waited = true;
    self.call = LuaThread::wait_threads;
    self.waits_for_several = count > 1;
    return lua_yield(L, 0);
}

int refuse_kill(lua_State* L, const char* why) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

int kill(lua_State* L) {
    task_of(L);
    lua_State* which = lua_tothread(L, 1);
    luaL_argcheck(L, which, 1, "lua thread expected");
    if (lua_getexdata2(which) == &ended_thread) return refuse_kill(L, "already waited or killed");
    LuaThread* thread = LuaThread::of(which);
    if (!thread || thread->kind != LuaThread::light) return refuse_kill(L, "not user thread");
    if (thread->spawner != L) return refuse_kill(L, "killer not parent");
    if (thread->state == LuaThread::zombie) {
        release_light_thread(*thread);
        return refuse_kill(L, "already terminated");
    }
    if (thread->unkillable) return refuse_kill(L, "pending subrequests");
    kill_light_thread(*thread);
    lua_pushinteger(L, 1);
    return 1;
}

constexpr LuaFunction functions[] = {
    {"ngx.thread.spawn", spawn, in_yieldable},
    {"ngx.thread.wait", wait, in_yieldable},
    {"ngx.thread.kill", kill, in_yieldable},
};
REGISTER_LUA_API(thread, functions);

}  // namespace
}  // namespace lua
