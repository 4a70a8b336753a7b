// LuaVm: one LuaJIT virtual machine with the ngx API in it. A configuration has one, made in the
// master before init_by_lua and inherited by the workers' fork; with lua_code_cache off a request
// has its own as well. Owns the cache of idle coroutines.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <lua.hpp>

#include "core/list.h"
#include "core/log.h"
#include "core/result.h"
#include "lua/memory_limit.h"
#include "lua/thread.h"

namespace lua {

struct LuaMainConf;

class LuaVm {
  public:
    struct Options {
        std::string package_path, package_cpath;   // as written; "" leaves LuaJIT's own
        std::string prefix;                        // for $prefix
        size_t coroutines_max = 1024;              // idle ones kept
        size_t memory_max = 0;                     // lua_max_memory; 0: none
        const core::LogContext* log = nullptr;
    };
    // A machine with every API installed and resty.core loaded. That resty.core fails is logged,
    // as upstream does; what cannot be made at all is the Result's error.
    static core::Result<std::unique_ptr<LuaVm>> create(const Options& options);
    ~LuaVm();
    LuaVm(const LuaVm&) = delete;
    LuaVm& operator=(const LuaVm&) = delete;

    // The process's machine; null when the configuration needs no Lua.
    static LuaVm* current() { return current_; }
    static void set_current(LuaVm* vm) { current_ = vm; }

    lua_State* L = nullptr;                    // main thread; exdata null
    core::List<LuaTask> tasks;                 // worker-owned ones
    std::unique_ptr<MemoryLimit> memory;       // null: no limit

    // A request's own machine outlives it while timers of it are pending: who uses one holds it,
    // and
    // the last to drop() it destroys it. The process's machine is not counted down to nothing.
    void hold() { ++users_; }
    void drop() { if (--users_ == 0) delete this; }

    // A coroutine from the cache, or a new one; anchored.
    struct Coroutine { lua_State* L; int anchor; };
    Coroutine take_coroutine();
    // `clean`: it returned normally and only its stack is to be emptied.
    void give_back(Coroutine coroutine, bool clean);
    // Keeps the coroutine at the top of `from`'s stack (it stays there) alive until release().
    int anchor(lua_State* from);
    void release(int anchor);

    // Forgets a request's ngx.ctx table.
    void release_context(int ctx_ref);

  private:
    LuaVm() = default;
    void set_paths(const Options& options);
    void install_api();
    void install_searcher();
    void load_core(const core::LogContext& log);
    void guard_globals();

    inline static LuaVm* current_ = nullptr;
    int users_ = 1;
    std::vector<Coroutine> idle_;
    size_t idle_max_ = 1024;
    int coroutines_ref_ = LUA_NOREF;           // the anchors' table in the registry
};

// Proves that luaL_error runs C++ destructors on this build; called once at boot.
bool errors_unwind();

// Calls the function at the top of L (no arguments, no results) with a traceback. False: "PREFIX
// error: message" was logged.
bool call_main(lua_State* L, const core::LogContext& log, const char* prefix);

}  // namespace lua
