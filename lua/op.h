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
    Op(const Op&) = delete;
    Op& operator=(const Op&) = delete;
    virtual ~Op() = default;

    // Called by the scheduler just before the thread goes on, on a stack of no values: pushes what
    // the call returns and says how many. May raise (luaL_error) as if the call itself had. The Op
    // is destroyed after it returned. To wait again from here, return await<Other>(L, …): it
    // replaces this Op, so touch no member afterwards.
    virtual int push_results(lua_State* L) = 0;

    // What it waits for, for the status page ("sleep").
    virtual const char* name() const { return "operation"; }

  protected:
    explicit Op(LuaThread& thread) : thread_(thread) {}

    // It is done: queues the thread. Called once, from a callback of the loop or from the
    // constructor; never resumes inside. The Op may be destroyed any time later in this turn.
    void complete() { scheduler_queue(thread_); }
    LuaThread& thread() const { return thread_; }
    LuaTask& task() const { return *thread_.task; }

  private:
    LuaThread& thread_;
};

// The running thread waits for an O. Only as `return await<O>(L, …)` of a lua_CFunction; O's
// constructor takes (LuaThread&, arguments…) and must not raise.
template <class O, class... Args>
int await(lua_State* L, Args&&... args) {
    LuaThread& thread = waiting_thread(L);
    void* room = thread.op_room(sizeof(O));
    thread.pending = new (room) O(thread, std::forward<Args>(args)...);
    return yield_for_op(L);
}

}  // namespace lua
