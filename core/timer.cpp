// The timer wheel: five levels of 256 slots. Level 0 has a slot a millisecond; a timer further
// away waits in a coarser level and moves down when its slot comes up.
#include "core/timer.h"

#include <algorithm>
#include <bit>

#include "core/clock.h"
#include "core/reactor.h"

namespace core {

TimerWheel& TimerWheel::current() { return Reactor::current().timers(); }

void Timer::set(int64_t delay_ms) {
    int64_t now = Clock::monotonic_ms();
    int64_t deadline = now + (delay_ms < 0 ? 0 : delay_ms);
    TimerWheel& wheel = TimerWheel::current();
    if (deadline_ms_ != none && linked()) {
        deadline_ms_ = deadline;
        if (deadline >= slot_ms_) return;   // the wheel finds out when the old time comes
        unlink();
        wheel.place(*this);
        return;
    }
    deadline_ms_ = deadline;
    wheel.insert(*this, now);
}

void Timer::cancel() {
    if (deadline_ms_ == none) return;
    deadline_ms_ = none;
    unlink();
    --TimerWheel::current().pending_;
}

void TimerWheel::insert(Timer& timer, int64_t now_ms) {
    if (pending_ == 0) {
        if (now_ms > now_ms_) now_ms_ = now_ms;   // an empty wheel may jump
        wake_ms_ = -1;
    }
    ++pending_;
    place(timer);
}

void TimerWheel::place(Timer& timer) {
    int64_t when = timer.deadline_ms_ > now_ms_ ? timer.deadline_ms_ : now_ms_ + 1;
    int64_t away = when - now_ms_;
    int level = 0;
    while (level < levels - 1 && away >= int64_t(1) << (level_bits * (level + 1))) ++level;
    int slot = int(when >> (level_bits * level)) & (slots - 1);
    timer.slot_ms_ = when;
    if (level > 0) {
        // The wheel looks at it when its slot is moved down; the first such moment is asked for.
        wake_ms_ = -1;
    } else if (wake_ms_ > when) {
        wake_ms_ = when;
    }
    wheel_[level][slot].push_back(timer);
    used_[level][slot / 64] |= uint64_t(1) << (slot % 64);
}

// Moves the timers of the slot that has come up at `level` to finer levels.
void TimerWheel::cascade(int level) {
    int slot = int(now_ms_ >> (level_bits * level)) & (slots - 1);
    used_[level][slot / 64] &= ~(uint64_t(1) << (slot % 64));
    List<Timer> moving;
    moving.take_all(wheel_[level][slot]);
    while (Timer* timer = moving.pop_front()) {
        if (timer->deadline_ms_ <= now_ms_) {
            timer->slot_ms_ = now_ms_;
            int now_slot = int(now_ms_) & (slots - 1);
            wheel_[0][now_slot].push_back(*timer);
            used_[0][now_slot / 64] |= uint64_t(1) << (now_slot % 64);
        } else {
            place(*timer);
        }
    }
}

void TimerWheel::fire_slot(List<Timer>& slot) {
    List<Timer> due;
    due.take_all(slot);
    while (Timer* timer = due.pop_front()) {
        if (timer->deadline_ms_ > now_ms_) {   // was pushed back meanwhile
            place(*timer);
            continue;
        }
        timer->deadline_ms_ = Timer::none;
        --pending_;
        timer->run_(timer->argument_);
    }
}

void TimerWheel::advance(int64_t now_ms) {
    if (now_ms < wake_ms_) {
        now_ms_ = std::max(now_ms_, now_ms);
        return;
    }
    wake_ms_ = -1;
    while (now_ms_ < now_ms) {
        if (pending_ == 0) {
            now_ms_ = now_ms;
            return;
        }
        // Within the current run of 256 ms, go straight to the next used slot.
        int at = int(now_ms_) & (slots - 1);
        int next = next_used(0, at + 1);
        int64_t base = now_ms_ - at;
        int64_t target = base + (next < 0 ? slots : next);
        if (target > now_ms) {
            now_ms_ = now_ms;
            return;
        }
        now_ms_ = target;
        if ((now_ms_ & (slots - 1)) == 0) {
            for (int level = 1; level < levels; ++level) {
                cascade(level);
                if ((now_ms_ >> (level_bits * level)) & (slots - 1)) break;
            }
        }
        int slot = int(now_ms_) & (slots - 1);
        used_[0][slot / 64] &= ~(uint64_t(1) << (slot % 64));
        fire_slot(wheel_[0][slot]);
    }
}

// The first used slot of a level at or behind `from`; -1 when there is none before the level wraps.
int TimerWheel::next_used(int level, int from) const {
    for (int word = from / 64; word < slots / 64; ++word) {
        uint64_t bits = used_[level][word];
        if (word == from / 64) bits &= ~uint64_t(0) << (from % 64);
        if (bits) return word * 64 + std::countr_zero(bits);
    }
    return -1;
}

int64_t TimerWheel::wait_ms(int64_t now_ms) const {
    if (pending_ == 0) return -1;
    if (wake_ms_ < 0) {
        int at = int(now_ms_) & (slots - 1);
        int next = next_used(0, at + 1);
        wake_ms_ = next >= 0 ? now_ms_ - at + next : next_run_ms();
    }
    return wake_ms_ > now_ms ? wake_ms_ - now_ms : 0;
}

// When there is something to do after the current run of 256 ms. Whole runs for which neither
// level 0 (its slots below the current one belong to the next run) nor level 1 has anything are
// slept over, up to where level 1 wraps and the coarser levels come in.
int64_t TimerWheel::next_run_ms() const {
    int64_t run_number = now_ms_ >> level_bits;
    int run = int(run_number) & (slots - 1);
    int wrapped = next_used(0, 0);
    if (wrapped >= 0) {
        bool moves_first = run + 1 == slots || slot_used(1, run + 1);
        return ((run_number + 1) << level_bits) + (moves_first ? 0 : wrapped);
    }
    int used = next_used(1, run + 1);
    int64_t runs = used < 0 ? slots - run : used - run;
    return (run_number + runs) << level_bits;
}

}  // namespace core
