// LuaTask: one run of a handler (a phase of a request, a timer, init_worker) with all its
// coroutines. LuaThread: a coroutine the scheduler runs or will run. How they are suspended,
// resumed and cancelled: lua/thread.md. Used by lua/by_lua.cpp, which starts tasks, and by every
// API file.
//
// Every coroutine's exdata is its LuaTask* (null in init_by_lua): that is the `r` which Lua code
// gets from thread.exdata() and hands to the ngx_http_lua_ffi_* functions. exdata2 is its
// LuaThread* while it runs, waits or has resumed another.
#pragma once

#include <cstddef>
#include <cstdint>

#include <lua.hpp>

#include "core/list.h"
#include "core/slice.h"
#include "lua/phase.h"
#include "server/http/request.h"

namespace server {
struct CoreConf;      // server/http/core_conf.h
}

namespace lua {

class Op;
class LuaVm;          // lua/vm.h
struct LuaConf;       // lua/conf.h
struct LuaTask;
struct LuaRequest;

// Its memory is kept for reuse and never unmapped, so a stale exdata2 can be read (and is then
// found to belong to another coroutine).
struct LuaThread : core::ListNode {        // linked in its task's `ready` list when it may go on
    enum Kind : uint8_t { entry, light, coroutine };  // light: of ngx.thread.spawn or ngx.on_abort
    enum State : uint8_t { running, waiting, normal, ready, zombie, dead };
    // Why it yielded, where that was not for an Op.
    enum Call : uint8_t { no_call, resume, spawn, wait_threads };

    lua_State* L = nullptr;
    LuaTask* task = nullptr;
    LuaThread* parent = nullptr;           // coroutine: who resumed it
    lua_State* spawner = nullptr;          // light: who spawned it; null once that one has ended
    int anchor = LUA_NOREF;                // keeps L alive; entry and light
    Kind kind = entry;
    State state = dead;
    Call call = no_call;
    bool wrapped = false;                  // coroutine: an error in it fails its parent as well
    bool waited = false;                   // light: its spawner sits in ngx.thread.wait for it
    bool waits_for_several = false;        // …in a wait for more than one
    bool has_children = false;             // it has spawned light threads
    bool unkillable = false;               // it waits for subrequests
    bool starts = false;                   // its function and arguments are on its stack
    int values = 0;                        // how many at the top of its stack it goes on with…
    LuaThread* called = nullptr;           // resume, spawn: whom, with…
    int called_values = 0;                 // …so many at the top of that one's stack
    Op* pending = nullptr;                 // what it waits for
    struct Member : core::ListNode { LuaThread* thread = nullptr; } member;   // of its task

    void* op_room(size_t bytes) { return bytes <= sizeof room_ ? room_ : ::operator new(bytes); }
    void drop_op();                        // destroys it: cancels

    // Attached to this coroutine? (exdata2 may be inherited from the creator or left over.)
    static LuaThread* of(lua_State* L) {
        auto* thread = static_cast<LuaThread*>(lua_getexdata2(L));
        return thread && thread->L == L ? thread : nullptr;
    }

  private:
    alignas(std::max_align_t) char room_[192];
};

// What must not outlive the request whose Lua made it, or the task where there is none: an open
// socket. owner_ended() is called once, after all threads are gone; it may destroy the object.
class Owned : public core::ListNode {
  public:
    virtual void owner_ended() = 0;

  protected:
    ~Owned() = default;
};
void end_owned(core::List<Owned>& all);

// How a task ended, or how far it is.
enum class TaskEnd : uint8_t {
    running,        // threads left: wait
    returned,       // the handler and all its light threads returned
    exited,         // ngx.exit(exit_status), ngx.redirect
    executed,       // ngx.exec: exec_uri, exec_args
    jumped,         // ngx.req.set_uri(…, true): the URI was changed
    failed,         // an uncaught Lua error (logged)
};

struct LuaTask : core::ListNode {          // linked in LuaRequest::tasks or LuaVm::tasks
    server::Request* request = nullptr;    // null: worker-owned (timer, init_worker, exit_worker)
    LuaRequest* of_request = nullptr;
    LuaVm* vm = nullptr;
    const LuaConf* conf = nullptr;
    const server::CoreConf* core_conf = nullptr;   // timers: of the location that set them
    const core::LogContext* log_context = nullptr;
    LuaPhase phase = LuaPhase::init;
    TaskEnd end = TaskEnd::running;        // set by stop(); takes effect when the thread yields
    bool active = false;                   // the scheduler is in one of its threads
    bool abort_refused = false;            // subrequests are pending: ngx.exit and others raise
    int16_t exit_status = 0;               // ngx.exit's argument; -1 is ngx.ERROR
    int light_threads = 0;                 // alive, zombies not counted
    bool coroutine_spawned = false;        // a user coroutine has spawned light threads
    LuaThread* entry = nullptr;            // dead when it has returned: results are on its stack
    LuaThread* running = nullptr;          // the thread whose code runs right now
    core::List<LuaThread::Member> threads; // all that are attached, zombies too
    LuaThread* on_abort = nullptr;         // ngx.on_abort's thread, not yet started
    int ctx_ref = LUA_NOREF;               // ngx.ctx of a task without a request
    uint64_t started = 0;                  // core::Ticks; only while metrics are counted
    core::Slice exec_uri, exec_args;
    // Called once, from the loop, when a task ends that its starter left running. The task is
    // destroyed when it returns. `argument` is the starter's.
    void (*done)(LuaTask&, void* argument) = nullptr;
    void* argument = nullptr;
    void* phase_data = nullptr;            // set: SetArguments*; body_filter: BodyPiece*

    core::List<Owned> owned;               // of a task without a request
    core::List<LuaThread> ready;           // first in, first out
    struct Node : core::ListNode { LuaTask* task = nullptr; } queued;   // in the scheduler

    const core::LogContext& log() const { return *log_context; }
    uint32_t phase_bit() const { return uint32_t(phase); }

    // Ends the task when the running thread yields, which the caller (ngx.exit and friends) makes
    // it do at once; in phases that do not yield, when the handler returns.
    void stop(TaskEnd how, int status = 0) { end = how; exit_status = int16_t(status); }
};

// What Lua keeps of one request, over all phases and handlers. In the request's arena; its
// destructor cancels what still runs.
struct LuaRequest {
    server::Request& request;
    core::List<LuaTask> tasks;
    int ctx_ref = LUA_NOREF;               // index in registry.ngx_lua_ctx_tables; <0: none yet
    LuaVm* vm = nullptr;                   // lua_code_cache off: this request's own
    bool eof = false;                      // the end of the response was sent (ngx.eof)
    bool headers_set = false;              // a script has set response headers
    bool mime_set = false;                 // …Content-Type among them
    bool seen_body = false;                // ngx.say or ngx.print gave some
    bool buffering = false;                // lua_http10_buffering holds the body back
    bool seen_last_in_filter = false;      // body_filter_by_lua ended the response itself
    bool raw_socket = false;               // ngx.req.socket(true) took the connection
    server::RequestBody* made_body = nullptr;   // between ngx.req.init_body and finish_body
    uint16_t filter_status = 0;            // a header filter's ngx.exit replaced the response
    core::Chain held;                      // what is held back
    core::List<Owned> owned;

    explicit LuaRequest(server::Request& r) : request(r) {}
    ~LuaRequest();
    // The one of this request, made on first use.
    static LuaRequest& of(server::Request& request);
    static LuaRequest* find(const server::Request& request);
};

// ---- the scheduler (scheduler.cpp) ----

// A task with an entry thread whose coroutine holds nothing yet: push a function (and arguments)
// onto task.entry->L, then run_task(). `request` may be null.
LuaTask& create_task(LuaVm& vm, LuaPhase phase, server::Request* request);
// Runs the entry thread now, with `arguments` values on its stack above the function, and whatever
// that makes runnable. When it comes back with anything but `running` the caller reads the task
// (results of a handler that returned are on task.entry->L) and calls destroy_task(); with
// `running`, task.done is called later.
TaskEnd run_task(LuaTask& task, int arguments = 0);
void destroy_task(LuaTask& task);         // cancels everything beneath it
// Ends a waiting task from the loop, as if its thread had called ngx.exit(status); done is called.
void end_task(LuaTask& task, TaskEnd how, int status);
// Queues a thread whose wait is over.
void scheduler_queue(LuaThread& thread);
// A light thread of the task, spawned by L; its coroutine (empty) is pushed onto L. It is not yet
// counted: set its function, ++light_threads, then start it or scheduler_queue() it with `starts`.
LuaThread& create_light_thread(LuaTask& task, lua_State* L);
// Ends one that runs or waits; the task may be over with it.
void kill_light_thread(LuaThread& thread);

// The running thread, which may wait: raises "attempt to yield across C-call boundary" where L is
// not run by the scheduler.
LuaThread& waiting_thread(lua_State* L);
inline int yield_for_op(lua_State* L) { return lua_yield(L, 0); }

// ---- who is running ----

// The task of a coroutine; null in init_by_lua.
inline LuaTask* find_task(lua_State* L) { return static_cast<LuaTask*>(lua_getexdata(L)); }
[[noreturn]] void raise_no_request(lua_State* L);
[[noreturn]] void raise_no_real_request(lua_State* L);
// The same for API functions: raises "no request found".
inline LuaTask& task_of(lua_State* L) {
    LuaTask* task = find_task(L);
    if (!task) [[unlikely]] raise_no_request(L);
    return *task;
}
// The request; raises in init_by_lua, and upstream's refusal where a task has none (timers,
// init_worker).
inline server::Request& request_of(lua_State* L) {
    LuaTask& task = task_of(L);
    if (!task.request) [[unlikely]] raise_no_real_request(L);
    return *task.request;
}

// Who owns what the task makes: told apart by address, and the list of what it owns.
inline const void* owner_of(const LuaTask& task) {
    return task.request ? static_cast<const void*>(task.request) : &task;
}
inline core::List<Owned>& owned_by(LuaTask& task) {
    return task.of_request ? task.of_request->owned : task.owned;
}

// What exdata2 of a coroutine that is over for good points to: a light thread that was waited for
// or killed, a coroutine that an error went through.
extern LuaThread ended_thread;

// How many threads are attached to tasks, by kind.
extern int64_t live_threads[3];

// Pools (thread.cpp).
LuaThread* take_thread(LuaTask& task, lua_State* L, LuaThread::Kind kind);
void free_thread(LuaThread* thread);      // drops its Op, unlinks it, detaches its coroutine
void release_light_thread(LuaThread& thread);   // the same, and lets its coroutine go

}  // namespace lua
