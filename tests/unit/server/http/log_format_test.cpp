// Escaping of log values, and the buffer they are put into.
#include "server/http/log_format.h"

#include <gtest/gtest.h>

#include <string>

using server::append_escaped;
using server::LineBuffer;
using server::LogEscape;

namespace {
std::string escaped(core::Slice text, LogEscape how, bool plain_non_ascii = false) {
    LineBuffer line;
    append_escaped(line, text, how, plain_non_ascii);
    return std::string(line.text());
}
}  // namespace

TEST(LogEscapes, Standard) {
    EXPECT_EQ(escaped("plain text/?a=b", LogEscape::standard), "plain text/?a=b");
    EXPECT_EQ(escaped("a\"b\\c\n\x7f\xc3\xa9", LogEscape::standard),
              "a\\x22b\\x5Cc\\x0A\\x7F\\xC3\\xA9");
    EXPECT_EQ(escaped("\xc3\xa9\"", LogEscape::standard, true), "\xc3\xa9\\x22");
    EXPECT_EQ(escaped(core::Slice("\0", 1), LogEscape::standard), "\\x00");
}

TEST(LogEscapes, Json) {
    EXPECT_EQ(escaped("a\"b\\c\n\r\t\b\f\x01\x1f\xc3\xa9\x7f", LogEscape::json),
              "a\\\"b\\\\c\\n\\r\\t\\b\\f\\u0001\\u001F\xc3\xa9\x7f");
}

TEST(LogEscapes, None) { EXPECT_EQ(escaped("a\"\n", LogEscape::none), "a\"\n"); }

TEST(LineBufferTest, GrowsAndDropsFromTheFront) {
    LineBuffer line;
    for (int i = 0; i < 1000; ++i) line.append("0123456789");
    EXPECT_EQ(line.size(), 10000u);
    line.drop_front(9995);
    EXPECT_EQ(line.text(), "56789");
}
