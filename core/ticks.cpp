// Which clock ticks are read from, and their speed.
#include "core/ticks.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "core/clock.h"
#include "core/slice.h"

namespace core {

namespace {

constexpr uint64_t calibration_us = 2000;

uint64_t monotonic_ns() {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

// Both clocks at about the same moment: of several tries the one that took least.
struct Moment {
    uint64_t ticks = 0, ns = 0;
};
Moment moment() {
    constexpr int tries = 16;
    Moment best;
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < tries; ++i) {
        uint64_t before = Ticks::now();
        uint64_t ns = monotonic_ns();
        uint64_t after = Ticks::now();
        if (after < before || after - before >= least) continue;
        least = after - before;
        best = {before + least / 2, ns};
    }
    return best;
}

}  // namespace

// Linux checks the counter while it runs, and goes by another clock where cores disagree or the
// speed changes.
bool Ticks::trusted() {
#if defined(__aarch64__)
    return true;
#elif defined(__x86_64__) && defined(__linux__)
    int fd = ::open("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                    O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    char room[64];
    ssize_t size = ::read(fd, room, sizeof room);
    ::close(fd);
    Slice name(room, size_t(std::max<ssize_t>(size, 0)));
    return name == "tsc\n" || name == "kvm-clock\n" || name == "hyperv_clocksource_tsc_page\n";
#else
    return false;
#endif
}

void Ticks::calibrate() {
    static bool done = false;
    if (done) return;
    done = true;
    counter_ = trusted();
    if (!counter_) return;
    Moment first = moment();
    Moment last = first;
    while (last.ns - first.ns < calibration_us * 1000) last = moment();
    if (last.ticks <= first.ticks) {
        counter_ = false;
        return;
    }
    auto ns = static_cast<unsigned __int128>(last.ns - first.ns);
    ns_by_tick_ = uint64_t((ns << 32) / (last.ticks - first.ticks));
}

}  // namespace core
