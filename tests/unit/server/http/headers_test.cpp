// Header ids and lists.
#include "server/http/headers.h"

#include <gtest/gtest.h>

#include "core/text.h"

using core::Slice;
using server::HeaderId;
using server::HeaderList;

TEST(HeaderIds, EveryNameIsFoundInAnyCase) {
    for (size_t i = 1; i < size_t(HeaderId::count); ++i) {
        std::string name(server::header_name(HeaderId(i)));
        EXPECT_EQ(server::header_id(name), HeaderId(i)) << name;
        EXPECT_EQ(server::header_id(core::to_lower(name)), HeaderId(i)) << name;
        for (char& c : name) c = core::upper(c);
        EXPECT_EQ(server::header_id(name), HeaderId(i)) << name;
    }
}

TEST(HeaderIds, OthersAreOther) {
    for (Slice name : {"", "X", "Hos", "Hostt", "X-Real_IP", "Content_Length",
                       "a-very-long-name-x"}) {
        EXPECT_EQ(server::header_id(name), HeaderId::other) << name;
    }
}

TEST(HeaderListTest, SetReplacesAndRemoves) {
    core::Arena arena;
    HeaderList list(arena);
    EXPECT_EQ(list.find("Vary"), nullptr);
    list.add("Vary", "a");
    list.add("X-One", "1");
    list.add("VARY", "b");
    list.add("x-one", "2");
    EXPECT_EQ(list.joined("vary", ", "), "a, b");
    EXPECT_EQ(list.joined("X-ONE", ", "), "1, 2");
    EXPECT_EQ(list.joined("X-Two", ", ").data(), nullptr);
    list.set(HeaderId::vary, "c");
    EXPECT_EQ(list.joined("vary", ", "), "c");
    list.set("X-One", "3");
    EXPECT_EQ(list.joined("x-one", ", "), "3");
    EXPECT_EQ(list.remove("x-one"), 1u);
    EXPECT_EQ(list.remove("x-one"), 0u);
    EXPECT_EQ(list.find("x-one"), nullptr);
    EXPECT_EQ(list.remove(HeaderId::vary), 1u);
    EXPECT_FALSE(list.has(HeaderId::vary));
    list.set("Vary", "d");
    EXPECT_EQ(list.value(HeaderId::vary), "d");
}

TEST(HeaderListTest, KeepsEmptyValuesAndGrows) {
    core::Arena arena;
    HeaderList list(arena);
    list.add("Cookie", "");
    list.add("Cookie", "a=1");
    EXPECT_EQ(list.joined("cookie", "; "), "; a=1");
    for (int i = 0; i < 100; ++i) list.add("X-Many", "v");
    EXPECT_EQ(list.size(), 102u);
    EXPECT_EQ(list.value(HeaderId::cookie), "");
}
