// Places in a pool and the queue for them: first come, first served, no more than there are.
#include "lua/api/socket_pool.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace {

using lua::PoolSlot;
using lua::SocketPool;

struct Waiter final : lua::PoolWaiter {
    bool told = false;
    void turn_came() override { told = true; }
};

TEST(SocketPool, LivesAsLongAsItsPlaces) {
    EXPECT_EQ(SocketPool::find("a"), nullptr);
    SocketPool& pool = SocketPool::make("a", 2, -1);
    EXPECT_EQ(&SocketPool::make("a", 5, 7), &pool);
    EXPECT_EQ(pool.size(), 2);
    {
        PoolSlot one(pool), two(pool);
        PoolSlot moved = std::move(one);
        EXPECT_EQ(pool.connections(), 2);
        two.release();
        EXPECT_EQ(SocketPool::find("a"), &pool);
    }
    EXPECT_EQ(SocketPool::find("a"), nullptr);
}

TEST(SocketPool, TurnsComeInOrderAndOnlyForRoom) {
    SocketPool& pool = SocketPool::make("b", 2, 10);
    PoolSlot first(pool), second(pool);
    std::vector<PoolSlot> places;
    Waiter waiters[3];
    for (Waiter& waiter : waiters) {
        places.emplace_back(pool);
        pool.wait(waiter);
    }
    pool.wake_one();
    EXPECT_FALSE(waiters[0].told);                 // both places are taken
    first.release();
    EXPECT_TRUE(waiters[0].told);
    EXPECT_FALSE(waiters[1].told);
    pool.wake_one();
    EXPECT_FALSE(waiters[1].told);                 // the place is promised already
    second.release();
    EXPECT_TRUE(waiters[1].told);
    EXPECT_FALSE(waiters[2].told);
    EXPECT_EQ(pool.waiting(), 1);
    pool.end_turn();                               // the first was killed: the next has its turn
    places[0].release();
    EXPECT_TRUE(waiters[2].told);
    pool.end_turn();
    pool.end_turn();
    EXPECT_EQ(pool.counts.queued, 3u);
}

TEST(SocketPool, WhoStopsWaitingIsPassedOver) {
    SocketPool& pool = SocketPool::make("c", 1, 10);
    PoolSlot held(pool), one(pool), two(pool);
    Waiter impatient, patient;
    pool.wait(impatient);
    pool.wait(patient);
    pool.stop_waiting(impatient);
    one.release();
    EXPECT_FALSE(patient.told);
    held.release();
    EXPECT_FALSE(impatient.told);
    EXPECT_TRUE(patient.told);
    pool.end_turn();
}

}  // namespace
