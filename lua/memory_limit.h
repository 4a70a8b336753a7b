// lua_max_memory: what a machine may have allocated at once. Sits between LuaJIT and its own
// allocator. Beyond the limit allocations fail, which raises "not enough memory" in the code that
// asked; but only while Lua code runs, where somebody can catch it: what the server itself does on
// a machine always succeeds. Called by LuaVm; the scheduler sets LimitedMemory.
#pragma once

#include <cstddef>

#include <lua.hpp>

namespace lua {

// Lua code runs: allocations may fail. Nested: off again in what C++ does below it.
extern constinit thread_local bool memory_is_limited;

class LimitedMemory {
  public:
    explicit LimitedMemory(bool limited) : before_(memory_is_limited) {
        memory_is_limited = limited;
    }
    ~LimitedMemory() { memory_is_limited = before_; }
    LimitedMemory(const LimitedMemory&) = delete;
    LimitedMemory& operator=(const LimitedMemory&) = delete;

  private:
    bool before_;
};

class MemoryLimit {
  public:
    // Takes over the machine's allocator; lives as long as the machine.
    MemoryLimit(lua_State* L, size_t bytes_max);
    MemoryLimit(const MemoryLimit&) = delete;
    MemoryLimit& operator=(const MemoryLimit&) = delete;

    size_t used() const { return used_; }

    // Between runs, when pressed(): collects for about a millisecond. `clean`: there is room again;
    // `full`: everything was looked at and nearly all of it is in use.
    enum class Outcome { busy, clean, full };
    Outcome clean_up();
    bool pressed() const { return pressed_; }

  private:
    static void* allocate(void* self, void* block, size_t old_size, size_t new_size);
    bool admit(size_t used);
    void press(size_t used);

    lua_State* L_;
    lua_Alloc inner_;
    void* inner_data_;
    size_t used_;
    const size_t max_;
    size_t mark_;              // nothing needs attention below
    size_t headroom_ = 0;      // beyond max_, after a failure, until the collector has been round
    bool pressed_ = false;
    int rounds_ = 0;           // of the collector, to be completed until clean_up() is done
    bool failed_ = false;
    int pause_ = 0, step_ = 0; // the collector's settings before
};

}  // namespace lua
