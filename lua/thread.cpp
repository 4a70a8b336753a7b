// Memory and small facts of Lua threads and requests: pools, attaching, names, refusals. The loop
// that runs them is in scheduler.cpp.
#include "lua/thread.h"

#include <deque>
#include <vector>

#include "lua/api.h"
#include "lua/api/ctx.h"
#include "lua/conf.h"
#include "lua/op.h"
#include "lua/vm.h"

namespace lua {

LuaThread ended_thread;
int64_t live_threads[3] = {};

namespace {

// Threads are made once and reused; a deque never moves them.
struct ThreadPool {
    std::deque<LuaThread> all;
    std::vector<LuaThread*> free;
};

ThreadPool& pool() {
    static ThreadPool* const instance = new ThreadPool;
    return *instance;
}

}  // namespace

LuaThread* take_thread(LuaTask& task, lua_State* L, LuaThread::Kind kind) {
    ThreadPool& threads = pool();
    if (threads.free.empty()) {
        threads.free.push_back(&threads.all.emplace_back());
        threads.free.reserve(threads.all.size());
    }
    LuaThread* thread = threads.free.back();
    threads.free.pop_back();
    thread->L = L;
    thread->task = &task;
    thread->kind = kind;
    thread->state = LuaThread::running;
    thread->member.thread = thread;
    ++live_threads[kind];
    task.threads.push_back(thread->member);
    lua_setexdata(L, &task);
    lua_setexdata2(L, thread);
    return thread;
}

void free_thread(LuaThread* thread) {
    --live_threads[thread->kind];
    thread->drop_op();
    thread->unlink();
    thread->member.unlink();
    if (thread->L) lua_setexdata2(thread->L, nullptr);
    thread->L = nullptr;
    thread->task = nullptr;
    thread->parent = nullptr;
    thread->spawner = nullptr;
    thread->called = nullptr;
    thread->anchor = LUA_NOREF;
    thread->state = LuaThread::dead;
    thread->call = LuaThread::no_call;
    thread->wrapped = thread->waited = thread->starts = false;
    thread->waits_for_several = thread->has_children = thread->unkillable = false;
    thread->values = thread->called_values = 0;
    pool().free.push_back(thread);
}

void release_light_thread(LuaThread& thread) {
    lua_State* L = thread.L;
    LuaVm& vm = *thread.task->vm;
    int anchor = thread.anchor;
    free_thread(&thread);
    lua_setexdata2(L, &ended_thread);
    vm.release(anchor);
}

LuaThread& create_light_thread(LuaTask& task, lua_State* L) {
    lua_State* fresh = lua_newthread(L);
    LuaThread& thread = *take_thread(task, fresh, LuaThread::light);
    thread.anchor = task.vm->anchor(L);
    thread.spawner = L;
    LuaThread* spawner = LuaThread::of(L);
    if (spawner && spawner->kind != LuaThread::coroutine) spawner->has_children = true;
    else task.coroutine_spawned = true;
    return thread;
}

void LuaThread::drop_op() {
    if (!pending) return;
    Op* op = pending;
    pending = nullptr;
    op->~Op();
    if (static_cast<void*>(op) != room_) ::operator delete(op);
}

LuaThread& waiting_thread(lua_State* L) {
    LuaThread* thread = LuaThread::of(L);
    if (!thread || !lua_isyieldable(L)) [[unlikely]] {
        task_of(L);
        // As lua_yield itself says it: without a place.
        lua_pushliteral(L, "attempt to yield across C-call boundary");
        lua_error(L);
    }
    return *thread;
}

void raise_no_request(lua_State* L) {
    luaL_error(L, "no request found");
    __builtin_unreachable();
}

// What upstream restricts to some phases it refuses by their names: those calls do not come here.
void raise_no_real_request(lua_State* L) {
    if (compat_openresty()) luaL_error(L, "API disabled in the current context");
    refuse(L, task_of(L));
    __builtin_unreachable();
}

const char* context_name(LuaPhase phase) {
    switch (phase) {
    case LuaPhase::init: return "init_by_lua*";
    case LuaPhase::set: return "set_by_lua*";
    case LuaPhase::rewrite: return "rewrite_by_lua*";
    case LuaPhase::server_rewrite: return "server_rewrite_by_lua*";
    case LuaPhase::access: return "access_by_lua*";
    case LuaPhase::precontent: return "precontent_by_lua*";
    case LuaPhase::content: return "content_by_lua*";
    case LuaPhase::log: return "log_by_lua*";
    case LuaPhase::header_filter: return "header_filter_by_lua*";
    case LuaPhase::body_filter: return "body_filter_by_lua*";
    case LuaPhase::timer: return "ngx.timer";
    case LuaPhase::init_worker: return "init_worker_by_lua*";
    case LuaPhase::exit_worker: return "exit_worker_by_lua*";
    case LuaPhase::balancer: return "balancer_by_lua*";
    case LuaPhase::proxy_ssl_cert: return "proxy_ssl_certificate_by_lua*";
    case LuaPhase::proxy_ssl_verify: return "proxy_ssl_verify_by_lua*";
    case LuaPhase::ssl_client_hello: return "ssl_client_hello_by_lua*";
    case LuaPhase::ssl_cert: return "ssl_certificate_by_lua*";
    case LuaPhase::ssl_session_store: return "ssl_session_store_by_lua*";
    case LuaPhase::ssl_session_fetch: return "ssl_session_fetch_by_lua*";
    }
    return "(unknown)";
}

// ---- requests ----

LuaRequest& LuaRequest::of(server::Request& request) {
    LuaRequest* found = find(request);
    if (found) return *found;
    auto* made = request.arena.make<LuaRequest>(request);
    request.set_state(lua_module, made);
    if (request.conf<LuaConf>(lua_module).ctx_inherit) [[unlikely]] inherit_context(*made);
    return *made;
}

LuaRequest* LuaRequest::find(const server::Request& request) {
    return request.state<LuaRequest>(lua_module);
}

void end_owned(core::List<Owned>& all) {
    while (Owned* one = all.pop_front()) one->owner_ended();
}

LuaRequest::~LuaRequest() {
    while (LuaTask* task = tasks.pop_front()) destroy_task(*task);
    end_owned(owned);
    if (vm) vm->drop();
    else if (ctx_ref >= 0 && LuaVm::current()) LuaVm::current()->release_context(ctx_ref);
}

}  // namespace lua
