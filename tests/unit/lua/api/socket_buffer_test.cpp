// The bytes a socket holds: taken from the front, growing at the end.
#include "lua/api/socket_buffer.h"

#include <gtest/gtest.h>

#include <string>

namespace {

void put(lua::ReceiveBuffer& buffer, const std::string& text) {
    std::memcpy(buffer.room(text.size()), text.data(), text.size());
    buffer.filled(text.size());
}

TEST(SocketBuffer, TakesAndGrows) {
    lua::ReceiveBuffer buffer;
    EXPECT_TRUE(buffer.empty());
    EXPECT_EQ(buffer.capacity(), 0u);
    std::string all;
    for (int i = 0; i < 200; ++i) {
        std::string piece(size_t(i), char('a' + i % 26));
        put(buffer, piece);
        all += piece;
        buffer.consume(all.size() / 2);
        all.erase(0, all.size() / 2);
        ASSERT_EQ(buffer.unread(), all);
    }
    EXPECT_LT(buffer.capacity(), 2000u);     // what was taken makes room
}

TEST(SocketBuffer, GivesMemoryBackOnlyWhenEmpty) {
    lua::ReceiveBuffer buffer;
    put(buffer, std::string(5000, 'x'));
    buffer.shrink(100);
    EXPECT_EQ(buffer.unread().size(), 5000u);
    buffer.consume(5000);
    buffer.shrink(10000);
    EXPECT_GE(buffer.capacity(), 5000u);
    buffer.shrink(100);
    EXPECT_EQ(buffer.capacity(), 0u);
    put(buffer, "again");
    EXPECT_EQ(buffer.unread(), "again");
}

}  // namespace
