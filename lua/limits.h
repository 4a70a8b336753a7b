// Limits on how long a script may run without pause: lua_max_cpu_time ends it, lua_stall_warning
// shows where it is. The scheduler says which task runs; a timer of CPU time, which ticks only
// while this thread computes, looks at that from a signal handler. Knows no phase and no request.
//
// How a run is ended. The handler sets a hook (lua_sethook may be called from signal handlers),
// which raises an error at the next instruction, and goes on raising until the run is over: pcall
// does not help. Compiled code looks at no hook unless LuaJIT's profiler is on when it is compiled;
// so where a limit is configured the profiler's line mode is on, without its timer, and the handler
// triggers it. Every line of compiled code then tests one bit: 3 to 10 % of the tightest loops, not
// measurable elsewhere. A run that ends by none of this sits in a C function (a pattern that
// explodes): after twice the limit, and a second at least, the worker logs the Lua stack and kills
// itself; the master starts another.
#pragma once

#include <cstdint>

namespace lua {

class LuaVm;
struct LuaTask;

// The run that this thread is in: from the loop into Lua and back. Tasks within it (a filter that
// runs below ngx.print) belong to it.
struct CurrentRun {
    LuaTask* volatile task = nullptr;      // null: not in Lua
    volatile uint64_t serial = 0;
    volatile bool attention = false;       // something is to be done when it is over
};
extern constinit CurrentRun current_run;

class RunScope {
  public:
    explicit RunScope(LuaTask& task) : outermost_(!current_run.task) {
        if (!outermost_) return;
        current_run.task = &task;
        current_run.serial = current_run.serial + 1;
    }
    ~RunScope() {
        if (!outermost_) return;
        current_run.task = nullptr;
        if (current_run.attention) [[unlikely]] settle();
    }
    RunScope(const RunScope&) = delete;
    RunScope& operator=(const RunScope&) = delete;

  private:
    static void settle();
    bool outermost_;
};

// Starts the ticks in this process. `cpu_limit_least_ms`: the smallest lua_max_cpu_time there is;
// 0 for none. Either may be 0.
void start_limits(LuaVm& vm, int64_t stall_ms, int64_t cpu_limit_least_ms);
// The machine goes away.
void stop_limits(LuaVm& vm);

}  // namespace lua
