// Timers: a hierarchical wheel of intrusive nodes. Setting and cancelling are O(1), nothing is
// scanned, and a million pending timers cost nothing while they wait.
//
// A timer that is set again for later while pending is not moved: it keeps its place in the wheel
// and goes to the later one when it comes up. So pushing a timeout back, which every keep-alive
// request does, is one store.
#pragma once

#include <cstdint>

#include "core/list.h"

namespace core {

class TimerWheel;

class Timer : public ListNode {
  public:
    // `run` is called from the loop, never from inside set(); it may set, cancel or destroy this
    // timer.
    using Run = void (*)(void* argument);

    Timer(Run run, void* argument) : run_(run), argument_(argument) {}
    ~Timer() { cancel(); }

    // Fires once, `delay_ms` from the cached now; replaces an earlier setting.
    void set(int64_t delay_ms);
    void cancel();
    bool pending() const { return deadline_ms_ != none; }
    int64_t deadline_ms() const { return deadline_ms_; }

  private:
    friend class TimerWheel;
    static constexpr int64_t none = -1;

    Run run_;
    void* argument_;
    int64_t deadline_ms_ = none;   // when it is to fire
    int64_t slot_ms_ = none;       // when the wheel will look at it
};

class TimerWheel {
  public:
    // The wheel of this thread's reactor.
    static TimerWheel& current();

    void insert(Timer& timer, int64_t now_ms);
    // Fires all timers whose time has come.
    void advance(int64_t now_ms);
    // Milliseconds until advance() has something to do: at most `limit_ms`, -1 for no timers.
    int64_t wait_ms(int64_t now_ms) const;
    uint64_t pending() const { return pending_; }

  private:
    friend class Timer;
    static constexpr int level_bits = 8;
    static constexpr int slots = 1 << level_bits;
    static constexpr int levels = 5;            // 2^40 ms: 34 years

    void place(Timer& timer);
    void cascade(int level);
    void fire_slot(List<Timer>& slot);
    bool slot_used(int level, int slot) const { return used_[level][slot / 64] >> (slot % 64) & 1; }
    int next_used(int level, int from) const;
    int64_t next_run_ms() const;

    List<Timer> wheel_[levels][slots];
    uint64_t used_[levels][slots / 64] = {};    // bitmap: may hold slots emptied since
    int64_t now_ms_ = 0;
    mutable int64_t wake_ms_ = -1;              // before it there is nothing to do; -1: not known
    uint64_t pending_ = 0;
};

}  // namespace core
