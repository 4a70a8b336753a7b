// Buffer chains: references, copies, consuming, marks.
#include "core/buffer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "core/arena.h"

namespace {

using namespace core;

struct Tracked : Owner {
    int* released;
    explicit Tracked(int& count) : released(&count) {
        release = [](Owner* owner) { ++*static_cast<Tracked*>(owner)->released; };
    }
};

std::string text(const Chain& chain) {
    std::string all;
    for (Buffer* at = chain.head(); at; at = at->next) all += at->text();
    return all;
}

TEST(Chain, OwnersAreHeldAndDropped) {
    int released = 0;
    Tracked one(released), two(released);
    {
        Chain chain;
        chain.add("abc", &one);
        two.hold();
        chain.add("de", &two);
        chain.add("fg", &two);
        chain.consume(2);
        EXPECT_EQ(released, 0);
        chain.consume(1);
        EXPECT_EQ(released, 1);
        chain.consume(3);
        EXPECT_EQ(text(chain), "g");
        EXPECT_EQ(released, 1);
        Chain moved(std::move(chain));
        EXPECT_TRUE(chain.empty());
        EXPECT_EQ(moved.bytes(), 1);
    }
    EXPECT_EQ(released, 2);
}

TEST(Chain, ConsumeTakesMarksWithTheirBytes) {
    Chain chain;
    chain.add("abc");
    chain.add_mark(Buffer::flush);
    chain.add("de");
    chain.add_mark(Buffer::last);
    EXPECT_TRUE(chain.ends());
    chain.consume(2);
    EXPECT_EQ(chain.head()->text(), "c");
    chain.consume(1);
    EXPECT_EQ(chain.head()->text(), "de");
    chain.consume(2);
    EXPECT_TRUE(chain.empty());
    EXPECT_EQ(chain.tail(), nullptr);
    EXPECT_FALSE(chain.ends());
}

TEST(Chain, CopiesJoinTheTailsChunk) {
    Chain chain;
    std::string wanted;
    for (int i = 0; i < 5000; ++i) {
        std::string piece = "piece " + std::to_string(i) + ";";
        chain.add_copy(piece);
        wanted += piece;
    }
    EXPECT_EQ(text(chain), wanted);
    size_t buffers = 0;
    for (Buffer* at = chain.head(); at; at = at->next) ++buffers;
    EXPECT_EQ(buffers, (wanted.size() + Chunk::capacity - 1) / Chunk::capacity);
    Chain second;
    second.add_copy(std::string(Chunk::capacity * 3 + 5, 'x'));
    EXPECT_EQ(second.bytes(), int64_t(Chunk::capacity * 3 + 5));
    second.add_mark(Buffer::last);
    second.add_copy("after");
    EXPECT_EQ(second.tail()->text(), "after");
    second.add_copy("");
    EXPECT_EQ(second.tail()->text(), "after");
}

TEST(Chain, FilesAreClosedWithTheLastReference) {
    int fd = open("/dev/null", O_RDONLY);
    {
        Chain chain;
        OpenFile* file = OpenFile::adopt(fd);
        file->hold();
        chain.add_file(file, 10, 100);
        chain.add_file(file, 0, 5);
        EXPECT_EQ(chain.bytes(), 95);
        chain.consume(30);
        EXPECT_EQ(chain.head()->file_begin, 40);
        EXPECT_EQ(chain.head()->fd(), fd);
        chain.consume(60);
        EXPECT_EQ(fcntl(fd, F_GETFD) >= 0, true);
    }
    EXPECT_LT(fcntl(fd, F_GETFD), 0);
}

TEST(Chain, PopPushAppend) {
    Chain one, two;
    one.add("b");
    two.add("c");
    one.append(std::move(two));
    EXPECT_TRUE(two.empty());
    two.add("a");
    Buffer* first = two.pop();
    EXPECT_TRUE(two.empty());
    one.push_front(first);
    EXPECT_EQ(text(one), "abc");
    one.append(std::move(two));
    Chain three;
    three.append(std::move(one));
    EXPECT_EQ(text(three), "abc");
    Buffer* popped = three.pop();
    Chain::release(popped);
    three = Chain();
    EXPECT_TRUE(three.empty());
}

TEST(Chain, SteadyStateAllocatesNothing) {
    auto round = [] {
        Chain chain;
        for (int i = 0; i < 50; ++i) {
            chain.add("x");
            chain.add_copy("yyyy");
        }
    };
    round();
    uint64_t before = heap_allocations();
    for (int i = 0; i < 100; ++i) round();
    EXPECT_EQ(heap_allocations(), before);
}

}  // namespace
