// Arenas, appenders, and intrusive lists.
#include "core/arena.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/list.h"

namespace {

using namespace core;

TEST(Arena, AlignmentAndSeparateness) {
    Arena arena;
    std::vector<std::pair<char*, size_t>> all;
    for (size_t i = 0; i < 2000; ++i) {
        size_t bytes = i * 7 % 3000, align = size_t(1) << i % 7;
        auto* at = static_cast<char*>(arena.allocate(bytes, align));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(at) % align, 0u);
        std::memset(at, int(i & 0xff), bytes);
        all.emplace_back(at, bytes);
    }
    for (size_t i = 0; i < all.size(); ++i) {
        auto [at, bytes] = all[i];
        for (size_t k = 0; k < bytes; ++k) ASSERT_EQ(uint8_t(at[k]), i & 0xff);
    }
}

TEST(Arena, Large) {
    Arena arena;
    char* large = arena.bytes(10 << 20);
    std::memset(large, 1, 10 << 20);
    auto* aligned = arena.allocate(100000, 64);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(aligned) % 64, 0u);
}

TEST(Arena, DestructorsNewestFirst) {
    std::string order;
    struct Noisy {
        std::string& order;
        char name;
        Noisy(std::string& to, char its) : order(to), name(its) {}
        ~Noisy() { order += name; }
    };
    {
        Arena arena;
        arena.make<Noisy>(order, 'a');
        arena.make<Noisy>(order, 'b');
        arena.make<int>(3);
        arena.make<Noisy>(order, 'c');
        arena.clear();
        EXPECT_EQ(order, "cba");
        arena.make<Noisy>(order, 'd');
        Arena other;
        other.take(arena);
        arena.clear();
        EXPECT_EQ(order, "cba");
    }
    EXPECT_EQ(order, "cbad");
}

TEST(Arena, SteadyStateAllocatesNothing) {
    auto round = [] {
        Arena arena;
        for (int i = 0; i < 100; ++i) arena.allocate(200);
        struct Holder {
            std::string* text;
            explicit Holder(std::string* its) : text(its) {}
            ~Holder() {}
        };
        arena.make<Holder>(nullptr);
    };
    round();
    uint64_t before = heap_allocations();
    for (int i = 0; i < 100; ++i) round();
    EXPECT_EQ(heap_allocations(), before);
}

TEST(Arena, GiveBack) {
    Arena arena;
    char* first = arena.bytes(100);
    arena.give_back(first + 10, first + 100);
    EXPECT_EQ(arena.bytes(1), first + 10);
    arena.give_back(first, first + 10);   // not the newest: nothing happens
    EXPECT_EQ(arena.bytes(1), first + 11);
    EXPECT_EQ(arena.copy("abc"), "abc");
    EXPECT_STREQ(arena.copy_z("xyz").data(), "xyz");
    EXPECT_EQ(arena.copy(""), "");
}

TEST(Appender, GrowsKeepingText) {
    for (size_t expected : {0, 1, 64, 5000}) {
        Arena arena;
        arena.bytes(4000);
        Appender out(arena, expected);
        std::string wanted;
        for (int i = 0; i < 3000; ++i) {
            out.append("ab");
            out.append('c');
            out.append_number(-i);
            wanted += "abc" + std::to_string(-i);
        }
        std::memcpy(out.reserve(5), "12345", 5);
        out.advance(5);
        wanted += "12345";
        EXPECT_EQ(out.size(), wanted.size());
        Slice text = out.take();
        EXPECT_EQ(text, wanted);
        arena.bytes(100);
        EXPECT_EQ(text, wanted);
    }
}

TEST(Appender, TakenTextSurvivesTheNext) {
    Arena arena;
    std::vector<Slice> texts;
    for (int i = 0; i < 1000; ++i) {
        Appender out(arena);
        out.append("number ");
        out.append_number(i);
        texts.push_back(out.take());
    }
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(texts[size_t(i)], "number " + std::to_string(i));
}

struct Item : ListNode {
    int value;
    explicit Item(int v) : value(v) {}
};

std::string shown(List<Item>& list) {
    std::string text;
    list.each([&](Item& item) { text += std::to_string(item.value); });
    return text;
}

TEST(List, Operations) {
    List<Item> list, other;
    Item one(1), two(2), three(3);
    EXPECT_TRUE(list.empty());
    EXPECT_EQ(list.pop_front(), nullptr);
    list.push_back(two);
    list.push_back(three);
    list.push_front(one);
    EXPECT_EQ(shown(list), "123");
    EXPECT_EQ(list.front().value, 1);
    EXPECT_EQ(list.back().value, 3);
    list.push_back(one);   // moves
    EXPECT_EQ(shown(list), "231");
    other.push_back(three);
    EXPECT_EQ(shown(list), "21");
    other.take_all(list);
    EXPECT_TRUE(list.empty());
    EXPECT_EQ(shown(other), "321");
    {
        Item passing(4);
        other.push_back(passing);
        EXPECT_EQ(shown(other), "3214");
    }
    EXPECT_EQ(shown(other), "321");   // it left when it died
    other.each([](Item& item) {
        if (item.value == 2) item.unlink();
    });
    EXPECT_EQ(shown(other), "31");
    EXPECT_FALSE(two.linked());
    EXPECT_EQ(other.pop_front(), &three);
    other.take_all(other);
    EXPECT_EQ(shown(other), "1");
}

TEST(List, MayDieBeforeItsItems) {
    Item one(1), two(2);
    {
        List<Item> list;
        list.push_back(one);
        list.push_back(two);
    }
    one.unlink();
    EXPECT_FALSE(two.linked());
}

}  // namespace
