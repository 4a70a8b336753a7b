// Entries by key in shared memory: found again, in order of use, and gone when removed.
#include "server/http/keyed_zone.h"

#include <gtest/gtest.h>

#include <string>

using server::KeyedEntry;
using server::KeyedZone;

namespace {

const char tag = 0;

void open(KeyedZone& zone, const char* name) {
    zone.name = name;
    zone.bytes = 8 * 4096;
    zone.key = server::ComplexValue("key");
    ASSERT_TRUE(zone.open(&tag, "test"));
}

TEST(KeyedZone, FindsWhatWasAdded) {
    KeyedZone zone;
    open(zone, "finds");
    core::ShmLock lock(zone.memory());
    EXPECT_EQ(zone.find("a", 1), nullptr);
    KeyedEntry* a = zone.add("a", 1);
    KeyedEntry* b = zone.add("b", 1);
    ASSERT_NE(a, nullptr);
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(zone.find("a", 1), a);
    EXPECT_EQ(zone.find("b", 1), b);
    EXPECT_EQ(zone.oldest(), a);
    zone.find("a", 1);
    EXPECT_EQ(zone.oldest(), b);
    zone.remove(*b);
    EXPECT_EQ(zone.find("b", 1), nullptr);
    EXPECT_EQ(zone.oldest(), a);
    zone.remove(*a);
    EXPECT_EQ(zone.oldest(), nullptr);
}

TEST(KeyedZone, FullZoneTakesNewKeysOnceOldOnesWent) {
    KeyedZone zone;
    open(zone, "full");
    core::ShmLock lock(zone.memory());
    std::string key(500, 'x');
    uint32_t count = 0;
    while (zone.add(key + std::to_string(count), count)) ++count;
    EXPECT_GT(count, 10u);
    for (int i = 0; i < 8; ++i) zone.remove(*zone.oldest());
    EXPECT_NE(zone.add(key, 7), nullptr);
}

TEST(KeyedZone, LivesOnForTheSameKeyOnly) {
    KeyedZone zone;
    open(zone, "lives");
    {
        core::ShmLock lock(zone.memory());
        ASSERT_NE(zone.add("a", 1), nullptr);
    }
    KeyedZone next;
    open(next, "lives");
    {
        core::ShmLock lock(next.memory());
        EXPECT_NE(next.find("a", 1), nullptr);
    }
    KeyedZone other;
    other.name = "lives";
    other.bytes = 8 * 4096;
    other.key = server::ComplexValue("another");
    auto opened = other.open(&tag, "limit_req");
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().what, "limit_req \"lives\" uses the \"another\" key while previously "
                                   "it used the \"key\" key");
}

}  // namespace
