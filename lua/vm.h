// LuaVm: one LuaJIT virtual machine with the ngx API in it. The process has one, made in the master
// before init_by_lua and inherited by the workers' fork; with lua_code_cache off a request has its
// own as well. Owns the cache of idle coroutines.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <lua.hpp>

#include "core/list.h"
#include "core/log.h"
#include "core/result.h"
#include "lua/thread.h"

namespace lua {

class LuaVm {
  public:
    // A machine with every API installed and resty.core loaded. Errors of resty.core are logged,
    // as upstream does; what cannot be made at all is the Result's error.
    static core::Result<std::unique_ptr<LuaVm>> create(const core::LogContext& log);
    ~LuaVm();
    LuaVm(const LuaVm&) = delete;
    LuaVm& operator=(const LuaVm&) = delete;

    // The process's machine; null when the configuration needs no Lua.
    static LuaVm* current();
    static void set_current(LuaVm* vm);

    lua_State* L = nullptr;                    // main thread; exdata null
    core::List<LuaTask> tasks;                 // worker-owned ones

    // A coroutine from the cache, or a new one; anchored in the registry. give_back() resets it.
    struct Coroutine { lua_State* L; int anchor; };
    Coroutine take_coroutine();
    // `clean`: it returned normally and only its stack is to be emptied.
    void give_back(Coroutine coroutine, bool clean);

    // The base of anchors' table in the registry: coroutines are anchored there, not in the registry
    // itself, whose references third-party code uses.
    int coroutines_ref = LUA_NOREF;

  private:
    LuaVm() = default;
    void set_paths();
    void install_api();
    void guard_globals();

    std::vector<Coroutine> idle_;
};

// Proves that luaL_error runs C++ destructors on this build; called once at boot.
bool errors_unwind();

// Logs "PREFIX error: message" for a failed load or call, the message being on top of L; pops it.
void log_lua_error(const core::LogContext& log, lua_State* L, const char* prefix);

}  // namespace lua
