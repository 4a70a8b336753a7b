// ngx.timer: functions run later, by the worker itself. A pending timer is a small object and a
// slot of a table of the machine, which holds the function and its arguments; the task is made when
// its time comes.
#include <memory>
#include <string>

#include "core/list.h"
#include "core/timer.h"
#include "lua/api/ffi.h"
#include "lua/conf.h"
#include "lua/handshake_by_lua.h"
#include "lua/vm.h"
#include "server/config.h"
#include "server/http/connection.h"
#include "server/http/request.h"
#include "server/metrics.h"
#include "server/worker.h"

namespace lua {
namespace {

char table_key;                // of the registry: what timers are to call

// Who is speaking in the error log: the request's client and server that set the timer.
struct Origin {
    std::string client, server;
    const core::Log* log = nullptr;
};

struct PendingTimer : core::ListNode {
    core::Timer timer;
    LuaVm* vm;
    const LuaConf* conf;
    const server::CoreConf* core_conf = nullptr;
    int ref;                   // slot of the table
    int arguments;
    int64_t every_ms;          // 0: once
    bool holds = false;        // set while the worker leaves: it waits for this one
    std::shared_ptr<const Origin> origin;

    PendingTimer(LuaVm* machine, const LuaConf* settings)
        : timer(fire, this), vm(machine), conf(settings) {}
    static void fire(void* self);
};

// A timer's task.
struct RunningTimer {
    core::LogContext log;
    std::shared_ptr<const Origin> origin;
    LuaVm* vm;
};

struct Timers {
    core::List<PendingTimer> pending;
    int64_t pending_count = 0;
    int64_t running_count = 0;
};
Timers timers;

void describe(const void* subject, core::LogLine& line) {
    auto& origin = *static_cast<const RunningTimer*>(subject)->origin;
    line.append(", context: ngx.timer");
    if (!origin.client.empty()) line.format(", client: %s", origin.client.c_str());
    if (!origin.server.empty()) line.format(", server: %s", origin.server.c_str());
}

std::shared_ptr<const Origin> origin_of(const LuaTask& task) {
    auto made = std::make_shared<Origin>();
    made->log = task.log().log;
    if (const server::Connection* connection = client_connection(task)) {
        made->client = connection->peer.ip_text();
        made->server = connection->listen.address.text();
    } else if (task.phase == LuaPhase::timer) {
        return static_cast<const RunningTimer*>(task.log().subject)->origin;
    }
    return made;
}

// Pushes the machine's table of what timers call.
void push_table(lua_State* L) {
    lua_pushlightuserdata(L, &table_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (!lua_isnil(L, -1)) return;
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushlightuserdata(L, &table_key);
    lua_pushvalue(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX);
}

// Keeps the function at index 2 and the arguments behind it: alone, or as a list.
int keep_call(lua_State* L, int arguments) {
    push_table(L);
    if (arguments == 0) {
        lua_pushvalue(L, 2);
    } else {
        lua_createtable(L, arguments + 1, 0);
        for (int n = 0; n <= arguments; n++) {
            lua_pushvalue(L, 2 + n);
            lua_rawseti(L, -2, n + 1);
        }
    }
    int ref = luaL_ref(L, -2);
    lua_pop(L, 1);
    return ref;
}

// Pushes the function, `premature` and the arguments.
void push_call(lua_State* L, const PendingTimer& pending, bool premature) {
    luaL_checkstack(L, pending.arguments + 4, "too many arguments");
    push_table(L);
    lua_rawgeti(L, -1, pending.ref);
    lua_remove(L, -2);
    if (pending.arguments == 0) {
        lua_pushboolean(L, premature);
        return;
    }
    int list = lua_gettop(L);
    lua_rawgeti(L, list, 1);
    lua_pushboolean(L, premature);
    for (int n = 0; n < pending.arguments; n++) lua_rawgeti(L, list, n + 2);
    lua_remove(L, list);
}

void forget(PendingTimer* pending) {
    lua_State* L = pending->vm->L;
    push_table(L);
    luaL_unref(L, -1, pending->ref);
    lua_pop(L, 1);
    pending->vm->drop();
    bool held = pending->holds;
    delete pending;
    server::Worker* worker = server::Worker::current();
    if (held && worker) worker->release();
}

// Takes it out of the lists: the function may set others, as many as before.
void leave_lists(PendingTimer& pending) {
    pending.unlink();
    timers.pending_count--;
}

void finish(LuaTask&, void* argument) {
    auto* run = static_cast<RunningTimer*>(argument);
    timers.running_count--;
    run->vm->drop();
    delete run;
    if (server::Worker* worker = server::Worker::current()) worker->release();
}

void start(const PendingTimer& pending, bool premature) {
    LuaTask& task = create_task(*pending.vm, LuaPhase::timer, nullptr);
    auto* run = new RunningTimer{{}, pending.origin, pending.vm};
    run->log.log = pending.origin->log;
    run->log.describe = describe;
    run->log.subject = run;
    pending.vm->hold();
    task.conf = pending.conf;
    task.core_conf = pending.core_conf;
    task.log_context = &run->log;
    task.done = finish;
    task.argument = run;
    timers.running_count++;
    if (server::Worker* worker = server::Worker::current()) worker->hold();
    push_call(task.entry->L, pending, premature);
    if (run_task(task, pending.arguments + 1) == TaskEnd::running) return;
    destroy_task(task);
    finish(task, run);
}

void refuse_to_start(const PendingTimer& pending, int64_t max) {
    lua_State* L = pending.vm->L;
    push_call(L, pending, false);
    lua_pop(L, pending.arguments + 1);
    lua_Debug where;
    lua_getinfo(L, ">S", &where);
    core::LogContext log;
    log.log = core::process_log().log;
    LOG(log, alert, 0, "lua failed to run timer with function defined at %s:%d: "
        "%lld lua_max_running_timers are not enough", where.source, where.linedefined,
        static_cast<long long>(max));
}

void run_or_refuse(PendingTimer& pending, bool premature) {
    int64_t max = main_conf().max_running_timers;
    if (timers.running_count >= max) {
        refuse_to_start(pending, max);
    } else {
        start(pending, premature);
    }
}

void PendingTimer::fire(void* self) {
    auto* pending = static_cast<PendingTimer*>(self);
    server::Worker* worker = server::Worker::current();
    if (pending->every_ms && !(worker && worker->leaving())) {
        pending->timer.set(pending->every_ms);
        run_or_refuse(*pending, false);
        return;
    }
    leave_lists(*pending);
    // One that was set while the worker leaves has come in its own time.
    run_or_refuse(*pending, worker && worker->leaving() && !pending->holds);
    forget(pending);
}

// The worker leaves: what is pending runs now, and is told so.
void run_all_prematurely(server::Worker&) {
    core::List<PendingTimer> leaving;
    leaving.take_all(timers.pending);
    while (PendingTimer* pending = leaving.pop_front()) {
        pending->timer.cancel();
        leave_lists(*pending);
        run_or_refuse(*pending, true);
        forget(pending);
    }
}

int64_t check_delay(lua_State* L, bool repeat) {
    constexpr double delay_ms_max = 1e15;
    double delay_ms = luaL_checknumber(L, 1) * 1000;
    if (!(delay_ms > 0)) delay_ms = 0;
    if (delay_ms > delay_ms_max) delay_ms = delay_ms_max;
    if (repeat && delay_ms < 1) luaL_error(L, "delay cannot be zero");
    return int64_t(delay_ms);
}

int set_timer(lua_State* L, bool repeat) {
    int count = lua_gettop(L);
    if (count < 2) return luaL_error(L, "expecting at least 2 arguments but got %d", count);
    int64_t delay_ms = check_delay(L, repeat);
    luaL_argcheck(L, lua_isfunction(L, 2) && !lua_iscfunction(L, 2), 2, "Lua function expected");
    LuaTask* task = find_task(L);
    if (!task) return luaL_error(L, "no request");
    if (task->phase == LuaPhase::exit_worker) return refuse(L, *task);
    server::Worker* worker = server::Worker::current();
    if (worker && worker->leaving() && delay_ms > 0) {
        lua_pushnil(L);
        lua_pushliteral(L, "process exiting");
        return 2;
    }
    if (timers.pending_count >= main_conf().max_pending_timers) {
        lua_pushnil(L);
        lua_pushliteral(L, "too many pending timers");
        return 2;
    }
    auto* pending = new PendingTimer(task->vm, task->conf);
    pending->core_conf = task->request ? &task->request->core() : task->core_conf;
    pending->vm->hold();
    pending->arguments = count - 2;
    pending->ref = keep_call(L, count - 2);
    pending->every_ms = repeat ? delay_ms : 0;
    pending->origin = origin_of(*task);
    if (worker && worker->leaving()) {
        pending->holds = true;
        worker->hold();
    }
    timers.pending.push_back(*pending);
    timers.pending_count++;
    pending->timer.set(delay_ms);
    lua_pushinteger(L, 1);
    return 1;
}

int at(lua_State* L) { return set_timer(L, false); }
int every(lua_State* L) { return set_timer(L, true); }

int push_count(lua_State* L, int64_t count) {
    if (!find_task(L)) return luaL_error(L, "no request");
    lua_pushnumber(L, double(count));
    return 1;
}
int running_count(lua_State* L) { return push_count(L, timers.running_count); }
int pending_count(lua_State* L) { return push_count(L, timers.pending_count); }

constexpr server::MetricColumn metric_columns[] = {
    {"pending", server::MetricColumn::gauge, "resty_lua_timers", "Timers of ngx.timer by state.",
     "state=\"pending\""},
    {"running", server::MetricColumn::gauge, "resty_lua_timers", nullptr, "state=\"running\""},
};
void publish(const server::MetricTable& table) {
    if (!table.own) return;
    core::set(table.own[0], timers.pending_count);
    core::set(table.own[1], timers.running_count);
}
constinit const server::MetricTable lua_timers{
    .name = "lua_timers", .columns = metric_columns, .publish = publish};
REGISTER_METRICS(lua_timers);

constexpr LuaFunction functions[] = {
    {"ngx.timer.at", at},
    {"ngx.timer.every", every},
    {"ngx.timer.running_count", running_count},
    {"ngx.timer.pending_count", pending_count},
};
REGISTER_LUA_API(timer, functions);

constinit const server::Module lua_timer{.name = "lua_timer",
                                         .worker_leaves = run_all_prematurely};
REGISTER_MODULE(lua_timer);

}  // namespace
}  // namespace lua
