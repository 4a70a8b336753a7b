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

TEST(HostMapTest, EntriesAreChangedAndTaken) {
    Map map;
    for (core::Slice name : {"a.test", "*.a.test", ".b.test", "c.*"}) {
        map.add(name, int(name.size()), true);
    }
    auto find = [&](core::Slice host) { const int* at = map.find(host); return at ? *at : 0; };
    map.set("a.test", 100, true);
    map.set(".b.test", 200, true);
    map.set("new.test", 300, true);
    EXPECT_EQ(find("a.test"), 100);
    EXPECT_EQ(find("b.test"), 200);
    EXPECT_EQ(find("x.b.test"), 200);
    EXPECT_EQ(find("new.test"), 300);
    EXPECT_EQ(*map.find_added(".b.test", true), 200);
    EXPECT_EQ(map.find_added("x.b.test", true), nullptr);
    // The name itself, added by itself, stays when the wildcard goes.
    map.set("b.test", 400, true);
    map.erase(".b.test", true);
    EXPECT_EQ(find("b.test"), 400);
    EXPECT_EQ(find("x.b.test"), 0);
    for (core::Slice name : {"b.test", "a.test", "*.a.test", "c.*", "new.test", "never.test"}) {
        map.erase(name, true);
    }
    EXPECT_TRUE(map.empty());
    EXPECT_TRUE(Map::is_valid("*.x", true));
    EXPECT_FALSE(Map::is_valid("a.*.x", true));
}

TEST(HostMapTest, NamesBesideADottedOne) {
    Map map;
    map.add(".a.test", 1, true);
    auto find = [&](core::Slice host) { const int* at = map.find(host); return at ? *at : 0; };
    // The bare name is the dotted one's, until it is added by itself; and again after that.
    EXPECT_EQ(map.find_added("a.test", true), nullptr);
    EXPECT_EQ(map.erase("a.test", true), std::nullopt);
    EXPECT_EQ(map.set("a.test", 2, true), std::nullopt);
    EXPECT_EQ(find("a.test"), 2);
    EXPECT_EQ(find("x.a.test"), 1);
    EXPECT_EQ(map.erase("a.test", true), 2);
    EXPECT_EQ(find("a.test"), 1);
    // A twin has the same place.
    EXPECT_EQ(Map::twin(".a.test"), "*.a.test");
    EXPECT_EQ(Map::twin("*.a.test"), ".a.test");
    EXPECT_EQ(Map::twin("a.*"), "");
    EXPECT_EQ(map.erase("*.a.test", true), std::nullopt);
    EXPECT_EQ(map.set("*.a.test", 3, true), 1);
    EXPECT_EQ(map.find_added(".a.test", true), nullptr);
    EXPECT_EQ(find("a.test"), 0);
    EXPECT_EQ(find("x.a.test"), 3);
    EXPECT_EQ(map.erase("*.a.test", true), 3);
    EXPECT_TRUE(map.empty());
}
