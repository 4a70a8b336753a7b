// Ticks: the finest clock there is for measuring durations: the processor's counter where the
// kernel itself trusts it, else the monotonic clock. For statistics only; timers and logs go by
// core/clock.h. Reading it costs a few nanoseconds and, with the counter, a few instructions.
#pragma once

#include <cstdint>
#include <ctime>

namespace core {

class Ticks {
  public:
    // Finds out which clock it is and how fast: two milliseconds of computing, once a process tree.
    // Before that ticks are nanoseconds.
    static void calibrate();

    static uint64_t now() {
        if (counter_) [[likely]] return read_counter();
        timespec now;
        ::clock_gettime(CLOCK_MONOTONIC, &now);
        return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
    }

    // A difference of two readings. One that runs backwards (another core's counter) is 0.
    static uint64_t to_ns(uint64_t ticks) {
        if (int64_t(ticks) < 0) [[unlikely]] return 0;
        return uint64_t((static_cast<unsigned __int128>(ticks) * ns_by_tick_) >> 32);
    }
    static uint64_t ns_since(uint64_t start) { return to_ns(now() - start); }

  private:
    static uint64_t read_counter() {
#if defined(__x86_64__)
        return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
        uint64_t value;
        asm volatile("mrs %0, cntvct_el0" : "=r"(value));
        return value;
#else
        return 0;
#endif
    }
    static bool trusted();

    inline static bool counter_ = false;
    inline static uint64_t ns_by_tick_ = 1ull << 32;     // in 32.32 fixed point
};

}  // namespace core
