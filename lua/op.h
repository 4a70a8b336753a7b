// Op: what a Lua thread waits for. A yielding API function builds one and ends with
//     return await<Sleep>(L, arguments…);
// The thread owns it: destroying it cancels the operation (the thread was killed, the client left,
// the request ended), so a destructor must leave nothing behind that could call back. It lives in
// the thread's own room when it fits, so the usual await allocates nothing.
#pragma once

#include <new>
#include <utility>

#include "lua/thread.h"

namespace lua {

class Op {
  public:
    static constexpr int again = -1;

    Op(const Op&) = delete;
    Op& operator=(const Op&) = delete;
    virtual ~Op() = default;

    // Called by the scheduler just before the thread goes on, on a stack with nothing of interest:
    // pushes what the call returns and says how many. Must not raise. The Op is destroyed after it
    // returned. `again`: it waits on (it pushed nothing and will complete() once more). It may end
    // the task (task().stop()): then its results do not matter.
    virtual int push_results(lua_State* L) = 0;

    // What it waits for, for the status page ("sleep").
    virtual const char* name() const { return "operation"; }

  protected:
    explicit Op(LuaThread& thread) : thread_(thread) {}

    // It is done: queues the thread. Called from a callback of the loop or from the constructor;
    // never resumes inside. The Op may be destroyed any time later in this turn.
    void complete() { scheduler_queue(thread_); }
    LuaThread& thread() const { return thread_; }
    LuaTask& task() const { return *thread_.task; }

  private:
    LuaThread& thread_;
};

// The running thread is going to wait for an O: the caller yields at once. O's constructor takes
// (LuaThread&, arguments…) and must not raise.
template <class O, class... Args>
void await_made(lua_State* L, Args&&... args) {
    LuaThread& thread = waiting_thread(L);
    thread.state = LuaThread::waiting;     // before the constructor, which may complete()
    thread.pending = new (thread.op_room(sizeof(O))) O(thread, std::forward<Args>(args)...);
}

// The same with the yield. Only as `return await<O>(L, …)` of a lua_CFunction. What is on the
// stack is not kept alive meanwhile.
template <class O, class... Args>
int await(lua_State* L, Args&&... args) {
    await_made<O>(L, std::forward<Args>(args)...);
    return yield_for_op(L);
}

}  // namespace lua
