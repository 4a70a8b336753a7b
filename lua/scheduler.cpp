// The scheduler: the one loop that runs Lua threads, whatever they waited for. Called by the phase
// runners (by_lua.cpp) for a handler's first run, and from the reactor's work queue for threads
// whose wait is over. Knows no operation and no phase.
#include <memory>
#include <string>
#include <vector>

#include "core/reactor.h"
#include "lua/conf.h"
#include "lua/limits.h"
#include "lua/metrics.h"
#include "lua/op.h"
#include "lua/thread.h"
#include "lua/traceback.h"
#include "lua/vm.h"
#include "server/metrics.h"

namespace lua {
namespace {

// A thread that goes on, and how many values at the top of its stack it is given.
struct Next {
    LuaThread* thread = nullptr;
    int values = 0;
};

// ---- tasks whose threads became ready, served at the end of the loop's turn ----

void serve_queue(void*);

struct Queue {
    core::List<LuaTask::Node> tasks;
    core::Deferred deferred{serve_queue, nullptr};
};

Queue& queue() {
    static Queue* const instance = new Queue;
    return *instance;
}

// ---- tasks ----

// A task's memory is reused and never unmapped: coroutines that outlive it still point to it.
std::vector<LuaTask*>& free_tasks() {
    static auto* const instance = new std::vector<LuaTask*>;
    return *instance;
}

LuaTask* take_task() {
    std::vector<LuaTask*>& tasks = free_tasks();
    LuaTask* task;
    if (tasks.empty()) {
        task = new LuaTask;
    } else {
        task = tasks.back();
        tasks.pop_back();
    }
    task->queued.task = task;
    return task;
}

void free_task(LuaTask& task) {
    std::destroy_at(&task);
    free_tasks().push_back(new (&task) LuaTask);
}

// ---- a thread's end ----

// Its light threads nobody can wait for any more: those that ended go, others lose their parent.
void abandon_children(LuaThread& spawner) {
    LuaTask& task = *spawner.task;
    bool may_have = spawner.kind == LuaThread::coroutine ? task.coroutine_spawned
                                                         : spawner.has_children;
    if (!may_have) return;
    task.threads.each([&](LuaThread::Member& member) {
        LuaThread& thread = *member.thread;
        if (thread.spawner != spawner.L) return;
        thread.spawner = nullptr;
        thread.waited = false;
        if (thread.state == LuaThread::zombie) release_light_thread(thread);
    });
}

LuaThread* find_waiting_spawner(LuaThread& child) {
    if (!child.waited || !child.spawner) return nullptr;
    LuaThread* spawner = LuaThread::of(child.spawner);
    return spawner && spawner->call == LuaThread::wait_threads ? spawner : nullptr;
}

void stop_waiting(LuaThread& spawner) {
    spawner.call = LuaThread::no_call;
    if (!spawner.waits_for_several) return;
    spawner.waits_for_several = false;
    spawner.task->threads.each([&](LuaThread::Member& member) {
        if (member.thread->spawner == spawner.L) member.thread->waited = false;
    });
}

void settle_task_if_over(LuaTask& task) {
    bool entry_over = !task.entry || task.entry->state == LuaThread::dead;
    if (entry_over && task.light_threads == 0 && task.end == TaskEnd::running)
        task.end = TaskEnd::returned;
}

// A light thread ended with `values` results, or with an error message on top.
Next light_thread_ended(LuaThread& thread, bool success) {
    LuaTask& task = *thread.task;
    lua_State* L = thread.L;
    if (!success && lua_gettop(L) > 1) {
        lua_insert(L, 1);
        lua_settop(L, 1);
    }
    --task.light_threads;
    if (LuaThread* spawner = find_waiting_spawner(thread)) {
        stop_waiting(*spawner);
        int values = lua_gettop(L);
        lua_checkstack(spawner->L, values + 1);
        lua_pushboolean(spawner->L, success);
        lua_xmove(L, spawner->L, values);
        release_light_thread(thread);
        return {spawner, values + 1};
    }
    if (thread.spawner) {
        lua_checkstack(L, 1);
        lua_pushboolean(L, success);
        lua_insert(L, 1);
        thread.state = LuaThread::zombie;
    } else {
        release_light_thread(thread);
    }
    settle_task_if_over(task);
    return {};
}

// A user coroutine hands `values` at its top over to whoever resumed it.
Next give_to_parent(LuaThread& thread, int values, bool success) {
    LuaThread* parent = thread.parent;
    bool wrapped = thread.wrapped;
    lua_State* from = thread.L;
    lua_checkstack(parent->L, values + 1);
    if (!wrapped) lua_pushboolean(parent->L, success);
    lua_xmove(from, parent->L, values);
    free_thread(&thread);
    return {parent, values + (wrapped ? 0 : 1)};
}

Next thread_returned(LuaThread& thread) {
    LuaTask& task = *thread.task;
    abandon_children(thread);
    switch (thread.kind) {
    case LuaThread::coroutine:
        return give_to_parent(thread, lua_gettop(thread.L), true);
    case LuaThread::light:
        return light_thread_ended(thread, true);
    case LuaThread::entry:
        thread.state = LuaThread::dead;
        settle_task_if_over(task);
    }
    return {};
}

// An error left the thread's function. `report` is made where it happened (coroutine.wrap passes
// errors through its callers).
Next thread_failed(LuaThread& thread, int status, std::string report) {
    LuaTask& task = *thread.task;
    thread.drop_op();
    bool wrapped = thread.kind == LuaThread::coroutine && thread.wrapped;
    if (report.empty() && (wrapped || thread.kind != LuaThread::coroutine))
        report = describe_failure(thread, status);
    abandon_children(thread);
    if (thread.kind == LuaThread::coroutine) {
        lua_State* L = thread.L;
        LuaThread* parent = thread.parent;
        Next next = give_to_parent(thread, 1, false);
        if (!report.empty()) lua_setexdata2(L, &ended_thread);
        return wrapped ? thread_failed(*parent, status, std::move(report)) : next;
    }
    if (thread.kind == LuaThread::light) {
        core::log_text(task.log(), core::Level::error, 0, "lua user thread aborted: " + report);
        return light_thread_ended(thread, false);
    }
    thread.state = LuaThread::dead;
    task.end = TaskEnd::failed;
    core::log_text(task.log(), core::Level::error, 0, failure_prefix(task.phase) + report);
    return {};
}

// ---- a thread's yield ----

void make_ready(LuaThread& thread, int values) {
    thread.state = LuaThread::ready;
    thread.values = values;
    thread.task->ready.push_back(thread);
}

// Why did it yield? Whom to run next: itself, another, or (nobody) whoever is ready.
Next thread_yielded(LuaThread& thread) {
    LuaTask& task = *thread.task;
    if (thread.pending) return {};
    switch (thread.call) {
    case LuaThread::wait_threads:
        thread.state = LuaThread::waiting;
        return {};
    case LuaThread::resume:
    case LuaThread::spawn: {
        Next next = {thread.called, thread.called_values};
        thread.called = nullptr;
        thread.state = LuaThread::normal;
        if (thread.call == LuaThread::spawn) make_ready(thread, 1);
        thread.call = LuaThread::no_call;
        return next;
    }
    case LuaThread::no_call:
        break;
    }
    if (thread.kind == LuaThread::coroutine)
        return give_to_parent(thread, lua_gettop(thread.L), true);
    lua_settop(thread.L, 0);
    if (task.ready.empty()) return {&thread, 0};
    make_ready(thread, 0);
    return {};
}

// ---- the loop ----

int resume(LuaThread& thread, int values) {
    LimitedMemory limited(true);
    return lua_resume(thread.L, values);
}

// Runs a thread and those it hands over to, until one waits or the task has ended.
void run_thread(LuaTask& task, LuaThread* thread, int values) {
    Next next{thread, values};
    while (next.thread) {
        LuaThread& now = *next.thread;
        now.state = LuaThread::running;
        task.running = &now;
        int status = resume(now, next.values);
        task.running = nullptr;
        if (status == 0) {
            next = thread_returned(now);
            if (task.end != TaskEnd::running) return;
        } else if (status == LUA_YIELD) {
            if (task.end != TaskEnd::running) return;
            next = thread_yielded(now);
        } else {
            next = thread_failed(now, status, {});
            if (task.end != TaskEnd::running) return;
        }
    }
}

// The values a ready thread goes on with; Op::again when it waits on after all.
int resume_values(LuaThread& thread) {
    if (thread.starts) {
        thread.starts = false;
        return lua_gettop(thread.L) - 1;
    }
    if (!thread.pending) return thread.values;
    thread.state = LuaThread::waiting;
    int values = thread.pending->push_results(thread.L);
    if (values != Op::again) thread.drop_op();
    return values;
}

void run_ready(LuaTask& task) {
    while (task.end == TaskEnd::running && !task.ready.empty()) {
        LuaThread& thread = *task.ready.pop_front();
        int values = resume_values(thread);
        if (values != Op::again && task.end == TaskEnd::running)
            run_thread(task, &thread, values);
    }
}

void finish_task(LuaTask& task) {
    if (task.started) end_measuring(task);
    LuaVm& vm = *task.vm;
    vm.hold();                 // done() may let go of it for good
    task.unlink();
    if (task.done) task.done(task, task.argument);
    destroy_task(task);
    vm.drop();
}

void run_in_turn(LuaTask& task) {
    RunScope scope(task);
    task.active = true;
    run_ready(task);
    task.active = false;
}

void serve_queue(void*) {
    core::List<LuaTask::Node> due;
    due.take_all(queue().tasks);
    while (LuaTask::Node* node = due.pop_front()) {
        LuaTask& task = *node->task;
        run_in_turn(task);
        if (task.end != TaskEnd::running) finish_task(task);
    }
}

}  // namespace

TaskEnd run_task(LuaTask& task, int arguments) {
    RunScope scope(task);
    task.active = true;
    run_thread(task, task.entry, arguments);
    if (!task.ready.empty()) run_ready(task);
    task.active = false;
    if (task.started && task.end != TaskEnd::running) end_measuring(task);
    return task.end;
}

void end_task(LuaTask& task, TaskEnd how, int status) {
    if (task.end != TaskEnd::running) return;
    task.stop(how, status);
    if (!task.active) finish_task(task);
}

void scheduler_queue(LuaThread& thread) {
    LuaTask& task = *thread.task;
    thread.state = LuaThread::ready;
    task.ready.push_back(thread);
    if (task.active || task.queued.linked()) return;
    Queue& due = queue();
    due.tasks.push_back(task.queued);
    core::Reactor::current().at_end(core::Reactor::work, due.deferred);
}

// Frees the user coroutines that a thread has resumed, one by the other.
static void release_beneath(LuaThread& thread) {
    if (thread.state != LuaThread::normal) return;
    LuaThread* resumed = nullptr;
    thread.task->threads.each([&](LuaThread::Member& member) {
        if (member.thread->parent == &thread) resumed = member.thread;
    });
    if (!resumed) return;
    release_beneath(*resumed);
    lua_State* L = resumed->L;
    free_thread(resumed);
    lua_setexdata2(L, &ended_thread);
}

void kill_light_thread(LuaThread& thread) {
    LuaTask& task = *thread.task;
    release_beneath(thread);
    --task.light_threads;
    abandon_children(thread);
    release_light_thread(thread);
    settle_task_if_over(task);
}

LuaTask& create_task(LuaVm& vm, LuaPhase phase, server::Request* request) {
    LuaTask& task = *take_task();
    task.vm = &vm;
    task.phase = phase;
    task.request = request;
    if (request) {
        task.of_request = &LuaRequest::of(*request);
        task.of_request->tasks.push_back(task);
        task.conf = &request->conf<LuaConf>(lua_module);
        task.log_context = &request->log;
    } else {
        vm.tasks.push_back(task);
        task.log_context = &core::process_log();
    }
    if (server::metrics_on) begin_measuring(task);
    LuaVm::Coroutine coroutine = vm.take_coroutine();
    task.entry = take_thread(task, coroutine.L, LuaThread::entry);
    task.entry->anchor = coroutine.anchor;
    return task;
}

void destroy_task(LuaTask& task) {
    LuaVm& vm = *task.vm;
    while (LuaThread::Member* member = task.threads.pop_front()) {
        LuaThread& thread = *member->thread;
        if (thread.kind == LuaThread::light) {
            release_light_thread(thread);
        } else if (thread.kind == LuaThread::entry) {
            bool clean = thread.state == LuaThread::dead && task.end != TaskEnd::failed;
            LuaVm::Coroutine coroutine{thread.L, thread.anchor};
            free_thread(&thread);
            vm.give_back(coroutine, clean);
        } else {
            lua_State* L = thread.L;
            free_thread(&thread);
            lua_setexdata2(L, &ended_thread);
        }
    }
    end_owned(task.owned);
    if (task.ctx_ref >= 0) vm.release_context(task.ctx_ref);
    free_task(task);
}

}  // namespace lua
