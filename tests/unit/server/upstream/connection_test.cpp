// The pool of idle upstream connections: which one is taken, and what stays.
#include "server/upstream/connection.h"

#include <gtest/gtest.h>

#include <vector>

namespace {

using server::ConnectionPool;
using server::UpstreamConnection;

core::Address local(int port) {
    core::Address address;
    EXPECT_TRUE(core::Address::parse_ip("127.0.0.1", address));
    address.set_port(port);
    return address;
}

struct Pool : testing::Test {
    void SetUp() override { ASSERT_TRUE(core::Reactor::open()); }
    void TearDown() override {
        core::Reactor::current().turn(0);       // what was closed goes
        pool.clear();
        core::Reactor::close();
    }
    UpstreamConnection* keep(int port, uint64_t identity = 0, const void* tag = nullptr) {
        UpstreamConnection::Ptr connection(new UpstreamConnection(local(port)));
        connection->identity = identity;
        connection->owner_tag = tag;
        auto* plain = connection.get();
        pool.keep(std::move(connection), limits);
        return plain;
    }

    ConnectionPool pool;
    ConnectionPool::Limits limits{.connections = 8};
};

TEST_F(Pool, TheLatestThatFitsIsTakenAndTheOrderStays) {
    auto* first = keep(1);
    auto* second = keep(2);
    auto* third = keep(1);
    auto* fourth = keep(3);
    EXPECT_EQ(pool.take(local(4), 0, nullptr), nullptr);
    auto taken = pool.take(local(1), 0, nullptr);
    EXPECT_EQ(taken.get(), third);
    auto next = pool.take(local(1), 0, nullptr);
    EXPECT_EQ(next.get(), first);
    EXPECT_EQ(pool.count(), 2u);
    limits.connections = 2;
    auto* fifth = keep(1);                      // the oldest makes room: the second
    EXPECT_EQ(pool.take(local(2), 0, nullptr), nullptr);
    auto left = pool.take(local(3), 0, nullptr);
    EXPECT_EQ(left.get(), fourth);
    auto last = pool.take(local(1), 0, nullptr);
    EXPECT_EQ(last.get(), fifth);
    EXPECT_EQ(pool.count(), 0u);
    EXPECT_NE(second, fifth);
}

TEST_F(Pool, IdentityAndOwnerMustFit) {
    int owner = 0, other = 0;
    auto* mine = keep(1, 7, &owner);
    keep(1, 8, &owner);
    keep(1, 7, &other);
    EXPECT_EQ(pool.take(local(1), 9, nullptr), nullptr);
    auto taken = pool.take(local(1), 7, &owner);
    EXPECT_EQ(taken.get(), mine);
    EXPECT_EQ(pool.count(), 2u);
}

}  // namespace
