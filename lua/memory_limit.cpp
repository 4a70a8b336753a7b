// The allocator that counts, and the collector's haste when the limit comes near.
#include "lua/memory_limit.h"

#include <algorithm>

#include "core/clock.h"
#include "lua/limits.h"

namespace lua {

constinit thread_local bool memory_is_limited = false;

namespace {

constexpr int hasty_pause = 110;         // per cent: the next round begins almost at once
constexpr int hasty_step = 1000;         // per cent: ten bytes looked at for each one allocated
constexpr int between_runs_step = 20000; // a fifth of a megabyte for each call
constexpr uint64_t clean_up_us = 1000;

}  // namespace

MemoryLimit::MemoryLimit(lua_State* L, size_t bytes_max)
    : L_(L), inner_(lua_getallocf(L, &inner_data_)),
      used_(size_t(lua_gc(L, LUA_GCCOUNT, 0)) * 1024 + size_t(lua_gc(L, LUA_GCCOUNTB, 0))),
      max_(bytes_max), mark_(bytes_max / 10 * 7) {
    lua_setallocf(L, allocate, this);
}

void* MemoryLimit::allocate(void* self, void* block, size_t old_size, size_t new_size) {
    auto& limit = *static_cast<MemoryLimit*>(self);
    size_t used = limit.used_ + new_size - old_size;
    if (used > limit.mark_ && new_size > old_size && !limit.admit(used)) [[unlikely]]
        return nullptr;
    void* made = limit.inner_(limit.inner_data_, block, old_size, new_size);
    if (made || new_size == 0) limit.used_ = used;
    return made;
}

bool MemoryLimit::admit(size_t used) {
    press(used);
    if (used <= max_ + headroom_ || !memory_is_limited) return true;
    failed_ = true;
    rounds_ = 2;                         // the one under way may have seen what is now garbage
    return false;
}

// The collector begins a round now and hurries. These calls of lua_gc only set numbers: they are
// safe inside an allocation.
void MemoryLimit::press(size_t used) {
    if (!pressed_) {
        pause_ = lua_gc(L_, LUA_GCSETPAUSE, hasty_pause);
        step_ = lua_gc(L_, LUA_GCSETSTEPMUL, hasty_step);
        pressed_ = true;
        rounds_ = 1;
        current_run.attention = true;
    }
    lua_gc(L_, LUA_GCRESTART, 0);
    size_t top = max_ + headroom_;
    mark_ = used < top ? used + (top - used) / 2 : top;
}

MemoryLimit::Outcome MemoryLimit::clean_up() {
    if (failed_) headroom_ = max_ / 4;   // for others, until this is done
    size_t low = max_ / 10 * 6;
    uint64_t end = core::Clock::precise_us() + clean_up_us;
    lua_gc(L_, LUA_GCSETSTEPMUL, between_runs_step);
    while (used_ >= low && rounds_ > 0 && core::Clock::precise_us() < end)
        rounds_ -= lua_gc(L_, LUA_GCSTEP, 0);
    lua_gc(L_, LUA_GCSETSTEPMUL, hasty_step);
    if (used_ >= low && rounds_ > 0) return Outcome::busy;
    mark_ = std::max(max_ / 10 * 7, used_ < max_ ? used_ + (max_ - used_) / 2 : max_);
    bool full = failed_ && used_ > max_ / 20 * 19;
    failed_ = false;
    headroom_ = 0;
    pressed_ = false;
    lua_gc(L_, LUA_GCSETPAUSE, pause_);
    lua_gc(L_, LUA_GCSETSTEPMUL, step_);
    return full ? Outcome::full : Outcome::clean;
}

}  // namespace lua
