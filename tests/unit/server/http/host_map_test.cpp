// Host names with wildcards: which entry wins, and what is refused.
#include "server/http/host_map.h"

#include <gtest/gtest.h>

using Map = server::HostMap<int>;

TEST(HostMapTest, OrderOfKinds) {
    Map map;
    map.add("www.example.com", 1, true);
    map.add("*.example.com", 2, true);
    map.add("*.b.example.com", 3, true);
    map.add("www.example.*", 4, true);
    map.add("www.*", 5, true);
    map.add(".example.org", 6, true);
    auto find = [&](core::Slice host) { const int* at = map.find(host); return at ? *at : 0; };
    EXPECT_EQ(find("www.example.com"), 1);
    EXPECT_EQ(find("a.example.com"), 2);
    EXPECT_EQ(find("x.a.example.com"), 2);
    EXPECT_EQ(find("x.b.example.com"), 3);
    EXPECT_EQ(find("example.com"), 0);
    EXPECT_EQ(find("www.example.net"), 4);
    EXPECT_EQ(find("www.other.net"), 5);
    EXPECT_EQ(find("example.org"), 6);
    EXPECT_EQ(find("a.example.org"), 6);
    EXPECT_EQ(find(""), 0);
    EXPECT_EQ(find("."), 0);
}

TEST(HostMapTest, SaysWhatCannotBeAdded) {
    Map map;
    EXPECT_EQ(map.add("a", 1, true), Map::Added::yes);
    EXPECT_EQ(map.add("a", 2, true), Map::Added::known);
    EXPECT_EQ(map.add("a*b", 2, true), Map::Added::invalid);
    EXPECT_EQ(map.add("*.a.*", 2, false), Map::Added::yes);
    EXPECT_EQ(*map.find("*.a.*"), 2);
}
