// Ticks agree with the clock, and histograms put values where they belong.
#include "core/ticks.h"

#include <gtest/gtest.h>

#include "core/histogram.h"

namespace {

namespace histogram = core::histogram;

uint64_t monotonic_ns() {
    timespec now;
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
}

TEST(Ticks, run_as_fast_as_the_clock) {
    core::Ticks::calibrate();
    // One interval within the other, both ways: whatever interrupts this, the inner one is shorter.
    uint64_t outer_ticks = core::Ticks::now();
    uint64_t clock = monotonic_ns();
    uint64_t inner_ticks = core::Ticks::now();
    while (monotonic_ns() - clock < 5'000'000) {}
    uint64_t inner = core::Ticks::ns_since(inner_ticks);
    uint64_t clock_took = monotonic_ns() - clock;
    uint64_t outer = core::Ticks::ns_since(outer_ticks);
    EXPECT_LE(double(inner), double(clock_took) * 1.01);
    EXPECT_GE(double(outer), double(clock_took) * 0.99);
}

TEST(Ticks, backwards_is_nothing) { EXPECT_EQ(core::Ticks::to_ns(uint64_t(-5)), 0u); }

TEST(Histogram, buckets_end_with_their_bounds) {
    EXPECT_EQ(histogram::bucket_of(0), 0u);
    for (size_t i = 0; i < histogram::bounds; ++i) {
        EXPECT_EQ(histogram::bucket_of(histogram::bounds_ns[i]), i);
        EXPECT_EQ(histogram::bucket_of(histogram::bounds_ns[i] + 1), i + 1);
        EXPECT_EQ(histogram::bucket_of(histogram::bounds_ns[i] - 1), i);
    }
    EXPECT_EQ(histogram::bucket_of(UINT64_MAX), histogram::bounds);
}

TEST(Histogram, every_power_of_two_is_found) {
    for (unsigned bit = 0; bit < 64; ++bit) {
        uint64_t value = 1ull << bit;
        size_t expected = 0;
        while (expected < histogram::bounds && histogram::bounds_ns[expected] < value) ++expected;
        EXPECT_EQ(histogram::bucket_of(value), expected) << bit;
    }
}

TEST(Histogram, counts_and_sums) {
    core::Counter counters[histogram::counters] = {};
    histogram::observe(counters, 9'000);
    histogram::observe(counters, 20'000'000'000);
    histogram::observe(counters, 9'500);
    EXPECT_EQ(core::get(counters[0]), 2);
    EXPECT_EQ(core::get(counters[histogram::bounds]), 1);
    EXPECT_EQ(core::get(counters[histogram::buckets]), 20'000'018'500);
}

}  // namespace
