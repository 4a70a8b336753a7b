// LuaTask: one run of a handler (a phase of a request, a timer, init_worker) with all its
// coroutines. LuaThread: a coroutine the scheduler runs or will run. How they are suspended, resumed
// and cancelled: lua/thread.md. Used by lua/by_lua.cpp, which starts tasks, and by every API file.
//
// Every coroutine's exdata is its LuaTask* (null in init_by_lua): that is the `r` which Lua code
// gets from thread.exdata() and hands to the ngx_http_lua_ffi_* functions. exdata2 is its LuaThread*
// while it runs, waits or has resumed another.
#pragma once

#include <cstddef>
#include <cstdint>

#include <lua.hpp>

#include "core/list.h"
#include "core/slice.h"
#include "lua/phase.h"
#include "server/http/request.h"

namespace lua {

class Op;
class LuaVm;          // lua/vm.h
struct LuaConf;       // lua/conf.h
struct LuaTask;
struct LuaRequest;

// Its memory is kept for reuse and never unmapped, so a stale exdata2 can be read (and is then
// found to belong to another coroutine).
struct LuaThread : core::ListNode {        // linked in the scheduler's queue when ready to run
    enum Kind : uint8_t { entry, user, coroutine };   // user: a light thread of ngx.thread.spawn
    enum State : uint8_t { running, waiting, normal, ready, zombie, dead };

    lua_State* L = nullptr;
    LuaTask* task = nullptr;
    LuaThread* parent = nullptr;           // coroutine: who resumed it; light thread: who spawned it
    int anchor = LUA_NOREF;                // registry reference that keeps L alive; entry and user
    Kind kind = entry;
    State state = dead;
    bool wrapped = false;                  // made by coroutine.wrap: errors pass through
    bool failed = false;                   // zombie: it ended with an error
    bool waited = false;                   // its parent sits in ngx.thread.wait for it
    bool starts = false;                   // ready: its function and arguments are on the stack
    Op* pending = nullptr;                 // what it waits for
    LuaThread* next_of_task = nullptr;     // chain of the task's entry and light threads

    // Room for an Op of this size; allocated when it does not fit in here.
    void* op_room(size_t bytes);
    void drop_op();                        // destroys it: cancels
    bool op_is_inline() const { return static_cast<void*>(pending) == room_; }

  private:
    alignas(std::max_align_t) char room_[192];
};

// How a task ended, or how far it is.
enum class TaskEnd : uint8_t {
    running,        // threads left: wait
    returned,       // the handler (and all its light threads) returned
    exited,         // ngx.exit(exit_status)
    executed,       // ngx.exec, ngx.req.set_uri(…, true): the request was sent elsewhere
    redirected,     // ngx.redirect: headers are set, exit_status is the status
    failed,         // an uncaught Lua error
};

struct LuaTask : core::ListNode {          // linked in LuaRequest::tasks, or in the VM's list
    server::Request* request = nullptr;    // null: worker-owned (timer, init_worker, exit_worker)
    LuaRequest* of_request = nullptr;
    LuaVm* vm = nullptr;
    const LuaConf* conf = nullptr;
    LuaPhase phase = LuaPhase::init;
    TaskEnd end = TaskEnd::running;        // set by exit(), executed by the scheduler at the yield
    bool inline_run = false;               // its starter is still on the C stack
    int16_t exit_status = 0;               // ngx.exit's argument; may be -1, -5 (ngx.ERROR, DECLINED)
    int light_threads = 0;                 // alive, zombies not counted
    LuaThread* entry = nullptr;            // null once it has returned
    LuaThread* running = nullptr;          // the thread whose code runs right now
    LuaThread* threads = nullptr;          // entry and light threads
    LuaThread* on_abort = nullptr;         // ngx.on_abort's thread
    // Called once when the task ends after its starter has gone back to the loop. The task is freed
    // when it returns. `argument` is the starter's.
    void (*done)(LuaTask&, void* argument) = nullptr;
    void* argument = nullptr;
    void* phase_data = nullptr;            // set: SetArguments*; body_filter: BodyFilterRun*

    const core::LogContext& log() const;
    uint32_t phase_bit() const { return uint32_t(phase); }
    core::Arena& arena() const { return request->arena; }

    // Ends the task at the next yield of the running thread (ngx.exit and friends call it and then
    // yield). A task that cannot yield there ends when its handler returns.
    void stop(TaskEnd how, int status = 0) { end = how; exit_status = int16_t(status); }
};

// What Lua keeps of one request, over all phases and handlers. In the request's arena; its
// destructor cancels what still runs.
struct LuaRequest {
    server::Request& request;
    core::List<LuaTask> tasks;
    int ctx_ref = LUA_NOREF;               // index in registry.ngx_lua_ctx_tables; <0: none yet
    LuaVm* vm = nullptr;                   // lua_code_cache off: this request's own
    bool eof = false;                      // ngx.eof was called: no more output
    bool headers_set = false;              // a script has set response headers
    bool mime_set = false;                 // …Content-Type among them
    bool seen_body = false;

    explicit LuaRequest(server::Request& r) : request(r) {}
    ~LuaRequest();
    // The one of this request, made on first use.
    static LuaRequest& of(server::Request& request);
    static LuaRequest* find(const server::Request& request);
};

// ---- the scheduler (scheduler.cpp) ----

// A task with an entry thread whose lua_State holds nothing yet: push a function (and arguments)
// onto task.entry->L, then run(). `request` may be null.
LuaTask& create_task(LuaVm& vm, LuaPhase phase, server::Request* request);
// Runs the entry thread now, with `arguments` values on its stack above the function, and whatever
// that makes runnable. When it comes back with anything but TaskEnd::running the caller reads the
// task (and, after `returned`, up to `results` values on task.entry_results) and calls
// destroy_task(); with `running`, task.done is called later.
TaskEnd run_task(LuaTask& task, int arguments = 0);
void destroy_task(LuaTask& task);         // cancels everything beneath it
// Ends a waiting task from outside (a client abort): as if it had called ngx.exit(status).
void end_task(LuaTask& task, TaskEnd how, int status);
// Queues a thread whose wait is over.
void scheduler_queue(LuaThread& thread);

// The running thread, which may wait: raises "attempt to yield across C-call boundary" where L is
// not run by the scheduler.
LuaThread& waiting_thread(lua_State* L);
int yield_for_op(lua_State* L);

// ---- who is running ----

// The task of a coroutine; null in init_by_lua.
inline LuaTask* find_task(lua_State* L) { return static_cast<LuaTask*>(lua_getexdata(L)); }
// The same for API functions: raises "no request found".
LuaTask& task_of(lua_State* L);
// The request; raises "no request found" in init_by_lua, and upstream's refusal where a task has
// none (timers, init_worker).
server::Request& request_of(lua_State* L);

}  // namespace lua
