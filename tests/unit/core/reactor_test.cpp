// The loop: readiness, generations, queues, posts from other threads.
#include "core/reactor.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "core/clock.h"

namespace {

using namespace core;

struct Handler final : IoHandler {
    std::function<void(uint8_t)> act;
    Watch watch;
    int events = 0;
    uint8_t last = 0;
    void on_io(uint8_t ready) override {
        ++events;
        last = ready;
        if (act) act(ready);
    }
};

struct ReactorTest : testing::Test {
    int fds[2];
    void SetUp() override {
        ASSERT_TRUE(Reactor::open());
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    }
    void TearDown() override {
        if (fds[0] >= 0) close(fds[0]);
        if (fds[1] >= 0) close(fds[1]);
        Reactor::close();
    }
    static void turn(int64_t wait_ms = 0) { Reactor::current().turn(wait_ms); }
};

TEST_F(ReactorTest, EdgesOncePerChange) {
    Handler handler;
    ASSERT_TRUE(handler.watch.start(fds[0], handler));
    turn();
    EXPECT_EQ(handler.events, 1);
    EXPECT_EQ(handler.last, ready_write);
    turn();
    EXPECT_EQ(handler.events, 1);
    ASSERT_EQ(write(fds[1], "x", 1), 1);
    turn();
    EXPECT_EQ(handler.events, 2);
    EXPECT_TRUE(handler.last & ready_read);
    turn();
    EXPECT_EQ(handler.events, 2);
    close(fds[1]);
    fds[1] = -1;
    turn();
    EXPECT_TRUE(handler.last & ready_hangup);
}

TEST_F(ReactorTest, LevelRepeats) {
    Handler handler;
    ASSERT_TRUE(handler.watch.start(fds[0], handler, Watch::level_read));
    turn();
    EXPECT_EQ(handler.events, 0);
    ASSERT_EQ(write(fds[1], "x", 1), 1);
    turn();
    turn();
    EXPECT_EQ(handler.events, 2);
    handler.watch.stop();
    EXPECT_FALSE(handler.watch.active());
    turn();
    EXPECT_EQ(handler.events, 2);
}

TEST_F(ReactorTest, EventsOfAStoppedWatchFindNothing) {
    // Both are ready in one wait; whichever comes first stops the other and reuses its slot.
    Handler one, other, third;
    int more[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, more), 0);
    auto stop_other = [&](Handler& victim) {
        return [&](uint8_t) {
            if (!victim.watch.active()) return;
            victim.watch.stop();
            EXPECT_TRUE(third.watch.start(more[0], third, Watch::level_read));
        };
    };
    one.act = stop_other(other);
    other.act = stop_other(one);
    ASSERT_TRUE(one.watch.start(fds[0], one, Watch::level_read));
    ASSERT_TRUE(other.watch.start(fds[1], other, Watch::level_read));
    ASSERT_EQ(write(fds[0], "x", 1), 1);
    ASSERT_EQ(write(fds[1], "x", 1), 1);
    turn();
    EXPECT_EQ(one.events + other.events, 1);
    EXPECT_EQ(third.events, 0);
    third.watch.stop_closing();
    close(more[0]);
    close(more[1]);
}

TEST_F(ReactorTest, BadDescriptor) {
    Handler handler;
    auto started = handler.watch.start(9999, handler);
    ASSERT_FALSE(started);
    EXPECT_FALSE(handler.watch.active());
    ASSERT_TRUE(handler.watch.start(fds[0], handler));   // the slot is used again
}

TEST_F(ReactorTest, QueuesRunInOrder) {
    std::string order;
    struct Item {
        std::string* order;
        char name;
        Deferred deferred{[](void* self) {
            auto* item = static_cast<Item*>(self);
            *item->order += item->name;
        }, this};
    };
    Item work{&order, 'w'}, flush{&order, 'f'}, destroy{&order, 'd'}, second{&order, 's'},
        never{&order, 'n'};
    Reactor& loop = Reactor::current();
    loop.at_end(Reactor::destroy, destroy.deferred);
    loop.at_end(Reactor::flush, flush.deferred);
    loop.at_end(Reactor::work, work.deferred);
    loop.at_end(Reactor::work, work.deferred);
    loop.at_end(Reactor::work, second.deferred);
    loop.at_end(Reactor::work, never.deferred);
    never.deferred.unlink();
    turn(1000);   // does not wait: there is work
    EXPECT_EQ(order, "wsfd");
    turn();
    EXPECT_EQ(order, "wsfd");
}

TEST_F(ReactorTest, WorkQueuedByWorkDoesNotStarveDescriptors) {
    struct Endless {
        int runs = 0;
        Deferred deferred{[](void* self) {
            auto* endless = static_cast<Endless*>(self);
            ++endless->runs;
            Reactor::current().at_end(Reactor::work, endless->deferred);
        }, this};
    } endless;
    Reactor::current().at_end(Reactor::work, endless.deferred);
    Handler handler;
    ASSERT_TRUE(handler.watch.start(fds[0], handler, Watch::level_read));
    ASSERT_EQ(write(fds[1], "x", 1), 1);
    turn(1000);
    turn(1000);
    EXPECT_GE(handler.events, 1);
    EXPECT_LE(endless.runs, 2 * 8);      // a turn does so many rounds of it, then looks around
}

TEST_F(ReactorTest, PostsFromOtherThreads) {
    int count = 0;
    std::vector<std::thread> threads;
    Reactor& loop = Reactor::current();
    for (int i = 0; i < 4; ++i) {
        threads.emplace_back([&] {
            for (int k = 0; k < 1000; ++k) loop.post([&] { ++count; });
        });
    }
    for (int i = 0; i < 5000 && count < 4000; ++i) turn(100);
    for (auto& thread : threads) thread.join();
    turn();
    EXPECT_EQ(count, 4000);
    loop.post([&] { loop.post([&] { ++count; }); });   // from within
    turn(100);
    turn(100);
    EXPECT_EQ(count, 4001);
}

TEST_F(ReactorTest, RunsUntilStopped) {
    Reactor& loop = Reactor::current();
    Timer timer([](void*) { Reactor::current().stop(); }, nullptr);
    timer.set(5);
    uint64_t began = Clock::precise_us();
    loop.run();
    EXPECT_GE(Clock::precise_us() - began, 4000u);
    EXPECT_GE(loop.turns(), 1u);
}

}  // namespace
