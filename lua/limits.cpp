// The ticks of CPU time, what they do to a run that takes too long, and the end of a run.
#include "lua/limits.h"

#include <lua.hpp>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string>

#include "core/clock.h"
#include "core/reactor.h"
#include "core/text.h"
#include "lua/conf.h"
#include "lua/memory_limit.h"
#include "lua/thread.h"
#include "lua/traceback.h"
#include "lua/vm.h"
#include "server/metrics.h"
#include "server/worker.h"

namespace lua {

constinit CurrentRun current_run;

namespace {

constexpr int tick_signal = SIGVTALRM;       // nobody's: the timer of that name is not used
constexpr int64_t tick_us_min = 5000, tick_us_max = 50000;
constexpr int64_t grace_us_min = 1000000;    // for what no hook can end

enum class Stage : uint8_t { fresh, warned, silent };

// What the ticks know. Written by the handler, apart from set-up.
struct Watch {
    LuaVm* vm = nullptr;                     // null: not started
    timer_t timer{};
    void (*trigger_profiler)(int) = nullptr;
    int64_t stall_us = 0;
    uint64_t serial = 0;                     // the run seen last…
    int64_t since_us = 0;                    // …and the CPU time when it was seen first
    volatile int64_t spent_us = 0;
    Stage stage = Stage::fresh;
    lua_State* volatile hooked = nullptr;    // the machine with a hook of ours
    volatile bool ending = false;            // …to end the run
    lua_Hook users_hook = nullptr;           // what was set before
    int users_mask = 0, users_count = 0;
};
constinit Watch watch;

int64_t cpu_us() {
    timespec now;
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return int64_t(now.tv_sec) * 1000000 + now.tv_nsec / 1000;
}

// ---- metrics ----

enum : size_t { stalls, ended };
constexpr server::MetricColumn metric_columns[] = {
    {"stalls", server::MetricColumn::counter, "resty_lua_stalls_total",
     "Runs of Lua that were longer than lua_stall_warning."},
    {"cpu_time_exceeded", server::MetricColumn::counter, "resty_lua_cpu_time_exceeded_total",
     "Errors raised in Lua that ran longer than lua_max_cpu_time."},
};
constinit const server::MetricTable limits_table{.name = "lua_limits", .columns = metric_columns};
REGISTER_METRICS(limits_table);

// ---- what the hook does: in Lua, at the next instruction ----

void log_stall(lua_State* L, LuaTask& task) {
    std::string text = core::format("lua has kept the worker busy for %lld ms in %s, now at:",
                                    static_cast<long long>(watch.spent_us / 1000),
                                    context_name(task.phase));
    append_stack(text, L);
    server::count(limits_table, stalls);
    core::log_text(task.log(), core::Level::warn, 0, text);
}

void unhook() {
    lua_sethook(watch.hooked, watch.users_hook, watch.users_mask, watch.users_count);
    watch.hooked = nullptr;
    watch.ending = false;
}

void on_hook(lua_State* L, lua_Debug*) {
    LuaTask* task = current_run.task;
    if (!task) return unhook();
    if (!watch.ending) {
        unhook();
        return log_stall(L, *task);
    }
    server::count(limits_table, ended);
    luaL_where(L, 0);
    lua_pushfstring(L, "%slua_max_cpu_time of %d ms exceeded", lua_tostring(L, -1),
                    task->conf ? int(task->conf->max_cpu_time.value) : 0);
    lua_error(L);
}

// ---- in the signal handler ----

void hook(lua_State* L) {
    if (!watch.hooked) {
        watch.users_hook = lua_gethook(L);
        watch.users_mask = lua_gethookmask(L);
        watch.users_count = lua_gethookcount(L);
        watch.hooked = L;
        current_run.attention = true;
    }
    lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
    if (watch.trigger_profiler) watch.trigger_profiler(SIGPROF);
}

// A line of the error log from a signal handler: neither memory nor locks.
struct RawLine {
    size_t size = 0;
    char text[8192];

    [[gnu::format(printf, 2, 3)]] void add(const char* pattern, ...) {
        va_list list;
        va_start(list, pattern);
        int made = std::vsnprintf(text + size, sizeof text - size, pattern, list);
        va_end(list);
        size = std::min(size + size_t(std::max(made, 0)), sizeof text - 1);
    }
    void begin(const char* level) {
        core::Slice date = core::Clock::log_date();
        add("%.*s [%s] %d#%d: ", int(date.size()), date.data(), level, int(::getpid()),
            int(::getpid()));
    }
    void write(const LuaTask& task) {
        add("\n");
        for (const core::Log::Output& output : task.log().log->outputs) {
            int fd = output.sink->fd();
            if (fd >= 0) [[maybe_unused]] ssize_t ignored = ::write(fd, text, size);
        }
        size = 0;
    }
};

void add_stack(RawLine& line, lua_State* L) {
    constexpr int depth_max = 22;
    lua_Debug frame;
    for (int level = 0; level < depth_max && lua_getstack(L, level, &frame); ++level) {
        if (!lua_getinfo(L, "Sl", &frame)) break;
        line.add("\n\t%s:%d: in function <%s:%d>", frame.short_src, frame.currentline,
                 frame.short_src, frame.linedefined);
    }
}

[[noreturn]] void die(int) {
    ::kill(::getpid(), SIGKILL);
    ::_exit(1);
}

// Nothing ends this run. Reading its stack is a risk where LuaJIT is in the midst of changing it:
// it is the last thing this process does.
[[noreturn]] void give_up(const LuaTask& task) {
    static RawLine line;
    line.begin("alert");
    line.add("lua has run for %lld ms in %s, far beyond lua_max_cpu_time, and cannot be "
             "interrupted; the worker is replaced", static_cast<long long>(watch.spent_us / 1000),
             context_name(task.phase));
    line.write(task);
    struct sigaction action = {};
    action.sa_handler = die;
    ::sigaction(SIGSEGV, &action, nullptr);
    ::sigaction(SIGBUS, &action, nullptr);
    const LuaThread* thread = task.running ? task.running : task.entry;
    line.begin("alert");
    line.add("stack traceback:");
    add_stack(line, thread->L);
    line.write(task);
    die(0);
}

// The warning's hook has not come: compiled code without the profiler's checks, or a C function.
void warn_blindly(const LuaTask& task) {
    static RawLine line;
    line.begin("warn");
    line.add("lua has kept the worker busy for %lld ms in %s, in compiled code or a C function "
             "(lua_max_cpu_time would end it)", static_cast<long long>(watch.spent_us / 1000),
             context_name(task.phase));
    line.write(task);
}

void look() {
    const LuaTask* task = current_run.task;
    if (!task) return;
    int64_t now = cpu_us();
    if (current_run.serial != watch.serial) {
        watch.serial = current_run.serial;
        watch.since_us = now;
        watch.stage = Stage::fresh;
        return;
    }
    int64_t spent = now - watch.since_us;
    watch.spent_us = spent;
    lua_State* L = task->vm->L;
    int64_t limit = task->conf ? task->conf->max_cpu_time.value * 1000 : 0;
    if (limit && spent >= limit) {
        if (spent >= limit + std::max(limit, grace_us_min)) give_up(*task);
        watch.ending = true;
        return hook(L);
    }
    if (!watch.stall_us || spent < watch.stall_us) return;
    if (watch.stage == Stage::fresh) {
        watch.stage = Stage::warned;
        hook(L);
    } else if (watch.stage == Stage::warned && watch.hooked && spent >= watch.stall_us * 10) {
        watch.stage = Stage::silent;
        warn_blindly(*task);
    }
}

void on_tick(int) {
    int saved = errno;
    look();
    errno = saved;
}

// ---- between runs ----

void clean_memory(void*);
core::Deferred& cleaning() {
    static core::Deferred* const instance = new core::Deferred(clean_memory, nullptr);
    return *instance;
}

// A machine whose memory is nearly all in use fails one request after the other.
void replace_worker(const MemoryLimit& memory) {
    LOG(core::process_log(), alert, 0, "%zu bytes of Lua memory are in use after a collection, "
        "nearly lua_max_memory; the worker is replaced", memory.used());
    if (server::Worker* worker = server::Worker::current())
        worker->leave(server::Worker::Exit::graceful);
}

void clean_memory(void*) {
    LuaVm* vm = LuaVm::current();
    if (!vm || !vm->memory || !vm->memory->pressed()) return;
    switch (vm->memory->clean_up()) {
    case MemoryLimit::Outcome::busy:
        core::Reactor::current().at_end(core::Reactor::work, cleaning());
        break;
    case MemoryLimit::Outcome::clean: break;
    case MemoryLimit::Outcome::full: replace_worker(*vm->memory); break;
    }
}

// ---- set-up ----

// The profiler, for the checks that it makes LuaJIT compile in; its timer is stopped at once.
void prepare_compiled_code(LuaVm& vm) {
    luaJIT_profile_start(vm.L, "li1000000000", [](void*, lua_State*, int, int) {}, nullptr);
    itimerval none = {};
    ::setitimer(ITIMER_PROF, &none, nullptr);
    struct sigaction action = {};
    ::sigaction(SIGPROF, nullptr, &action);
    watch.trigger_profiler = action.sa_handler;
}

bool start_timer(int64_t tick_us) {
    struct sigaction action = {};
    action.sa_handler = on_tick;
    action.sa_flags = SA_RESTART;
    ::sigemptyset(&action.sa_mask);
    ::sigaction(tick_signal, &action, nullptr);
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = tick_signal;
    event._sigev_un._tid = int(::syscall(SYS_gettid));
    if (::timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &watch.timer) != 0) return false;
    itimerspec when = {};
    when.it_value.tv_sec = when.it_interval.tv_sec = tick_us / 1000000;
    when.it_value.tv_nsec = when.it_interval.tv_nsec = tick_us % 1000000 * 1000;
    return ::timer_settime(watch.timer, 0, &when, nullptr) == 0;
}

}  // namespace

void RunScope::settle() {
    current_run.attention = false;
    if (watch.hooked) unhook();
    LuaVm* vm = LuaVm::current();
    if (vm && vm->memory && vm->memory->pressed())
        core::Reactor::current().at_end(core::Reactor::work, cleaning());
}

void start_limits(LuaVm& vm, int64_t stall_ms, int64_t cpu_limit_least_ms) {
    if (watch.vm) stop_limits(*watch.vm);
    if (!stall_ms && !cpu_limit_least_ms) return;
    int64_t least_ms = std::min(stall_ms ? stall_ms : INT64_MAX,
                                cpu_limit_least_ms ? cpu_limit_least_ms : INT64_MAX);
    watch = Watch{};
    watch.stall_us = stall_ms * 1000;
    watch.vm = &vm;
    if (cpu_limit_least_ms) prepare_compiled_code(vm);
    int64_t tick_us = std::clamp(std::min<int64_t>(least_ms, 1000) * 1000 / 4, tick_us_min,
                                 tick_us_max);
    if (!start_timer(tick_us)) {
        LOG(core::process_log(), alert, errno, "timer_create() failed, lua_max_cpu_time and "
            "lua_stall_warning have no effect");
    }
}

void stop_limits(LuaVm& vm) {
    if (watch.vm != &vm) return;
    ::timer_delete(watch.timer);
    if (watch.hooked) unhook();
    if (watch.trigger_profiler) luaJIT_profile_stop(vm.L);
    watch = Watch{};
}

}  // namespace lua
