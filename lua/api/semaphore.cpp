// ngx.semaphore: counting, with waiting light threads in order. lualib/ngx/semaphore.lua calls
// these functions and yields when one has to wait.
#include <cstdint>
#include <new>

#include "core/list.h"
#include "core/reactor.h"
#include "core/timer.h"
#include "lua/api/ffi.h"
#include "lua/op.h"

struct ngx_http_lua_sema_s;

namespace lua {
namespace {

class SemaphoreWait final : public Op, public core::ListNode {
  public:
    SemaphoreWait(LuaThread& thread, ngx_http_lua_sema_s& semaphore, int64_t timeout_ms);
    ~SemaphoreWait() override { leave(); }

    void grant();
    void abandon() { semaphore_ = nullptr; }       // the semaphore is no more
    int push_results(lua_State* L) override;
    const char* name() const override { return "semaphore"; }

  private:
    void leave();
    void time_out();

    ngx_http_lua_sema_s* semaphore_;
    core::Timer timer_;
    bool granted_ = false;
};

}  // namespace
}  // namespace lua

// What Lua holds a pointer to.
struct ngx_http_lua_sema_s {
    int count = 0;
    int waiting = 0;
    core::List<lua::SemaphoreWait> queue;
    // Threads go on from the loop, so that whoever posts is not overtaken by them.
    core::Deferred hand_out{[](void* self) { static_cast<ngx_http_lua_sema_s*>(self)->grant(); },
                            this};

    void grant() {
        while (count > 0) {
            lua::SemaphoreWait* first = queue.pop_front();
            if (!first) return;
            count--;
            waiting--;
            first->grant();
        }
    }
};

namespace lua {
namespace {

SemaphoreWait::SemaphoreWait(LuaThread& thread, ngx_http_lua_sema_s& semaphore,
                             int64_t timeout_ms)
    : Op(thread),
      semaphore_(&semaphore),
      timer_([](void* self) { static_cast<SemaphoreWait*>(self)->time_out(); }, this) {
    semaphore.waiting++;
    semaphore.queue.push_back(*this);
    timer_.set(timeout_ms);
}

void SemaphoreWait::leave() {
    if (!linked()) return;
    unlink();
    if (semaphore_) semaphore_->waiting--;
}

void SemaphoreWait::grant() {
    granted_ = true;
    timer_.cancel();
    complete();
}

void SemaphoreWait::time_out() {
    leave();
    complete();
}

int SemaphoreWait::push_results(lua_State* L) {
    lua_pushboolean(L, granted_);
    if (granted_) {
        lua_pushnil(L);
    } else {
        lua_pushliteral(L, "timeout");
    }
    return 2;
}

}  // namespace
}  // namespace lua

using ngx_http_lua_sema_t = ngx_http_lua_sema_s;

LUA_FFI int ngx_http_lua_ffi_sema_new(ngx_http_lua_sema_t** psem, int n, char**) {
    *psem = new ngx_http_lua_sema_t;
    (*psem)->count = n;
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_sema_post(ngx_http_lua_sema_t* sem, int n) {
    sem->count += n;
    if (!sem->queue.empty()) {
        core::Reactor::current().at_end(core::Reactor::work, sem->hand_out);
    }
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_sema_count(ngx_http_lua_sema_t* sem) {
    return sem->count - sem->waiting;
}

// ffi_again: the caller yields at once; the results come when the wait is over.
LUA_FFI int ngx_http_lua_ffi_sema_wait(ngx_http_request_t* r, ngx_http_lua_sema_t* sem,
                                       int wait_ms, unsigned char* errstr, size_t* errlen) {
    if (!lua::allowed(*r, lua::in_yieldable) || !r->running) {
        lua::ffi_refuse(*r, errstr, errlen);
        return lua::ffi_error;
    }
    if (sem->queue.empty() && sem->count > 0) {
        sem->count--;
        return lua::ffi_ok;
    }
    if (wait_ms == 0) return lua::ffi_declined;
    lua::LuaThread& thread = *r->running;
    void* room = thread.op_room(sizeof(lua::SemaphoreWait));
    thread.pending = new (room) lua::SemaphoreWait(thread, *sem, wait_ms);
    return lua::ffi_again;
}

LUA_FFI void ngx_http_lua_ffi_sema_gc(ngx_http_lua_sema_t* sem) {
    if (!sem) return;
    if (!sem->queue.empty()) {
        LOG(core::process_log(), error, 0, "in lua semaphore gc wait queue is not empty while the "
            "semaphore %p is being destroyed", static_cast<void*>(sem));
        sem->queue.each([](lua::SemaphoreWait& wait) { wait.abandon(); });
    }
    delete sem;
}
