// The timer wheel against a model, and what callbacks may do.
#include "core/timer.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <vector>

#include "core/clock.h"
#include "core/reactor.h"

namespace {

using namespace core;

struct TimerTest : testing::Test {
    int64_t base = 0;
    void SetUp() override {
        ASSERT_TRUE(Reactor::open());
        base = Clock::monotonic_ms();
    }
    void TearDown() override { Reactor::close(); }
    static TimerWheel& wheel() { return TimerWheel::current(); }
};

struct Item {
    Timer timer;
    int64_t fired_at = -1;
    int64_t deadline = -1;
    static inline int64_t now = 0;
    Item() : timer([](void* self) {
        auto* item = static_cast<Item*>(self);
        item->fired_at = now;
    }, this) {}
    void set(int64_t base, int64_t delay) {
        timer.set(delay);
        deadline = base + delay;
        fired_at = -1;
    }
};

TEST_F(TimerTest, FiresOnTimeNeverEarly) {
    std::mt19937_64 random(7);
    std::vector<std::unique_ptr<Item>> items;
    for (int i = 0; i < 800; ++i) {
        items.push_back(std::make_unique<Item>());
        int64_t scale = int64_t(1) << random() % 24;
        items.back()->set(base, int64_t(random() % uint64_t(scale)));
    }
    EXPECT_EQ(wheel().pending(), 800u);
    int64_t now = base, before = base;
    while (wheel().pending()) {
        int64_t wait = wheel().wait_ms(now);
        ASSERT_GE(wait, 0);
        int64_t least = INT64_MAX;
        for (auto& item : items) {
            if (item->timer.pending()) least = std::min(least, item->deadline);
        }
        // Never sleeps beyond the first timer (a deadline of "now" is due a millisecond later).
        ASSERT_LE(now + wait, std::max(least, now + 1));
        before = now;
        now += random() % 4 ? std::max<int64_t>(wait, 1) : 1 + int64_t(random() % 100000);
        Item::now = now;
        wheel().advance(now);
        for (auto& item : items) {
            if (item->fired_at != now) continue;
            ASSERT_LE(item->deadline, now);
            ASSERT_GE(std::max(item->deadline, base + 1), before);
        }
        for (auto& item : items) {
            if (item->timer.pending()) {
                ASSERT_GT(item->deadline, now);
            }
        }
    }
    EXPECT_EQ(wheel().wait_ms(now), -1);
}

TEST_F(TimerTest, PushedBackPulledForwardCancelled) {
    Item pushed, pulled, gone;
    pushed.set(base, 100);
    pulled.set(base, 100000);
    gone.set(base, 100);
    for (int i = 0; i < 10; ++i) pushed.set(base, 1000 * (i + 1));
    pulled.set(base, 50);
    gone.timer.cancel();
    gone.timer.cancel();
    EXPECT_FALSE(gone.timer.pending());
    EXPECT_EQ(wheel().pending(), 2u);
    for (int64_t t = 1; t <= 11000; ++t) {
        Item::now = base + t;
        wheel().advance(base + t);
    }
    EXPECT_EQ(pushed.fired_at, base + 10000);
    EXPECT_EQ(pulled.fired_at, base + 50);
    EXPECT_EQ(gone.fired_at, -1);
    EXPECT_EQ(wheel().pending(), 0u);
}

TEST_F(TimerTest, CallbacksMaySetCancelAndDestroy) {
    struct Actor {
        std::function<void()> act;
        Timer timer{[](void* self) {
            auto act = static_cast<Actor*>(self)->act;   // may be destroyed by what it does
            act();
        }, this};
    };
    int again = 0, victims = 0;
    Actor repeating;
    repeating.act = [&] {
        if (++again < 5) repeating.timer.set(10);
    };
    auto self_destroying = std::make_unique<Actor>();
    self_destroying->act = [&] { self_destroying.reset(); };
    auto victim = std::make_unique<Actor>(), other = std::make_unique<Actor>();
    victim->act = other->act = [&] { ++victims; };
    Actor killer;
    killer.act = [&] {   // all three are due in the same millisecond
        victim.reset();
        other->timer.cancel();
    };
    repeating.timer.set(10);
    self_destroying->timer.set(5);
    killer.timer.set(5);
    victim->timer.set(5);
    other->timer.set(5);
    wheel().advance(base + 10);
    EXPECT_EQ(victims, 0);
    EXPECT_FALSE(self_destroying);
    for (int i = 1; i < 100; ++i) wheel().advance(base + 10 + i);
    EXPECT_EQ(again, 5);
    EXPECT_EQ(wheel().pending(), 0u);
}

TEST_F(TimerTest, ZeroDelayNeverFiresInsideSet) {
    Item item;
    item.set(base, 0);
    EXPECT_TRUE(item.timer.pending());
    EXPECT_LE(wheel().wait_ms(base), 1);
    Item::now = base + 1;
    wheel().advance(base + 1);
    EXPECT_EQ(item.fired_at, base + 1);
    Item late;
    late.set(base, -50);
    wheel().advance(base + 2);
    EXPECT_FALSE(late.timer.pending());
}

TEST_F(TimerTest, FarAway) {
    Item year, now_and_then;
    int64_t far = int64_t(400) * 86400 * 1000;
    year.set(base, far);
    now_and_then.set(base, 70000);
    int64_t now = base;
    int wakes = 0;
    while (now_and_then.timer.pending()) {
        now += wheel().wait_ms(now);
        Item::now = now;
        wheel().advance(now);
        ++wakes;
    }
    EXPECT_EQ(now_and_then.fired_at, base + 70000);
    EXPECT_LT(wakes, 10);
    Item::now = base + far - 1;
    wheel().advance(base + far - 1);
    EXPECT_TRUE(year.timer.pending());
    Item::now = base + far;
    wheel().advance(base + far);
    EXPECT_EQ(year.fired_at, base + far);
}

TEST_F(TimerTest, AMillion) {
    std::vector<Item> items(1000000);
    std::mt19937_64 random(1);
    for (auto& item : items) item.set(base, int64_t(random() % 60000));
    EXPECT_EQ(wheel().pending(), 1000000u);
    for (size_t i = 0; i < items.size(); i += 2) items[i].timer.cancel();
    Item::now = base + 60000;
    wheel().advance(base + 60000);
    EXPECT_EQ(wheel().pending(), 0u);
    EXPECT_EQ(items[0].fired_at, -1);
    EXPECT_EQ(items[1].fired_at, base + 60000);
}

}  // namespace
