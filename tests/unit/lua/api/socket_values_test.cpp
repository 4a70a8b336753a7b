// Values kept with a connection: newest first, the oldest gives way.
#include "lua/api/socket_values.h"

#include <gtest/gtest.h>

namespace {

using lua::SocketValues;

TEST(SocketValues, TheOldestGivesWay) {
    SocketValues values(2);
    SocketValues::Pair evicted{};
    EXPECT_FALSE(values.add({1, 10}, &evicted));
    EXPECT_FALSE(values.add({2, 20}, &evicted));
    EXPECT_EQ(values.find(1)->value, 10u);         // newest now
    EXPECT_TRUE(values.add({3, 30}, &evicted));
    EXPECT_EQ(evicted.key, 2u);
    EXPECT_EQ(evicted.value, 20u);
    EXPECT_EQ(values.find(2), nullptr);
    EXPECT_FALSE(values.add({3, 31}, &evicted));   // known: replaced
    EXPECT_EQ(values.find(3)->value, 31u);
    EXPECT_EQ(values.count(), 2u);
}

TEST(SocketValues, WithoutALimit) {
    SocketValues values(0);
    SocketValues::Pair evicted{};
    for (uint64_t key = 0; key < 50; ++key) EXPECT_FALSE(values.add({key, key}, &evicted));
    EXPECT_TRUE(values.remove(7));
    EXPECT_FALSE(values.remove(7));
    EXPECT_EQ(values.count(), 49u);
}

}  // namespace
