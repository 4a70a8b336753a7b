// The thread pool: results come back to the loop, cancelling, a full queue.
#include "core/threads.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "core/clock.h"
#include "core/reactor.h"

namespace {

using namespace core;

struct ThreadPoolTest : testing::Test {
    void SetUp() override { ASSERT_TRUE(Reactor::open()); }
    void TearDown() override { Reactor::close(); }
    template <class F>
    void run_until(F over) {
        for (int i = 0; i < 2000 && !over(); ++i) Reactor::current().turn(5);
    }
};

TEST_F(ThreadPoolTest, WorkThereDoneHere) {
    ThreadPool pool("default", 2, 100);
    auto here = std::this_thread::get_id();
    std::thread::id there, back;
    bool over = false;
    auto task = pool.submit([&] { there = std::this_thread::get_id(); },
                            [&] {
                                back = std::this_thread::get_id();
                                over = true;
                            });
    ASSERT_TRUE(task);
    EXPECT_TRUE(task->pending());
    EXPECT_FALSE(over);
    run_until([&] { return over; });
    EXPECT_TRUE(over);
    EXPECT_FALSE(task->pending());
    EXPECT_EQ(back, here);
    EXPECT_NE(there, here);
}

TEST_F(ThreadPoolTest, ManyJobs) {
    ThreadPool pool("default", 4, 10000);
    std::vector<Task> tasks;
    std::atomic<int> worked{0};
    int done = 0;
    for (int i = 0; i < 5000; ++i) {
        auto task = pool.submit([&] { ++worked; }, [&] { ++done; });
        ASSERT_TRUE(task);
        tasks.push_back(std::move(*task));
    }
    run_until([&] { return done == 5000; });
    EXPECT_EQ(done, 5000);
    EXPECT_EQ(worked, 5000);
}

TEST_F(ThreadPoolTest, CancelledTasksSayNothing) {
    ThreadPool pool("default", 1, 100);
    std::atomic<int> worked{0};
    int done = 0;
    auto held = std::make_shared<int>(1);
    {
        auto slow = pool.submit([&] { usleep(30000); ++worked; }, [&] { ++done; });
        auto queued = pool.submit([&] { ++worked; }, [&done, held] { ++done; });
        usleep(5000);
    }
    EXPECT_EQ(held.use_count(), 1);   // let go at once, here
    bool over = false;
    auto last = pool.submit([] {}, [&] { over = true; });
    run_until([&] { return over; });
    EXPECT_TRUE(over);
    EXPECT_EQ(done, 0);
    EXPECT_EQ(worked, 1);
}

TEST_F(ThreadPoolTest, DestroyedInItsOwnCompletion) {
    ThreadPool pool("default", 1, 100);
    std::unique_ptr<Task> task;
    bool over = false;
    auto submitted = pool.submit([] {}, [&] {
        task.reset();
        over = true;
    });
    task = std::make_unique<Task>(std::move(*submitted));
    run_until([&] { return over; });
    EXPECT_TRUE(over);
}

TEST_F(ThreadPoolTest, FullQueue) {
    ThreadPool pool("small", 1, 2);
    std::atomic<bool> go{false};
    auto running = pool.submit([&] { while (!go) usleep(1000); }, [] {});
    while (pool.waiting()) usleep(1000);
    auto one = pool.submit([] {}, [] {});
    auto two = pool.submit([] {}, [] {});
    EXPECT_TRUE(one && two);
    auto three = pool.submit([] {}, [] {});
    ASSERT_FALSE(three);
    EXPECT_EQ(three.error().what, "thread pool \"small\" queue overflow: 2 tasks waiting");
    go = true;
}

TEST_F(ThreadPoolTest, PoolGoesWithJobsWaiting) {
    int done = 0;
    Task kept;
    {
        ThreadPool pool("default", 1, 100);
        auto one = pool.submit([] { usleep(20000); }, [&] { ++done; });
        auto two = pool.submit([] {}, [&] { ++done; });
        kept = std::move(*two);
        usleep(5000);
    }
    for (int i = 0; i < 20; ++i) Reactor::current().turn(1);
    EXPECT_EQ(done, 0);
}

}  // namespace
