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

// Eight bytes are looked at in one go: each place within them, and each length around that.
TEST(LogEscapes, SpecialBytesAtEveryPlace) {
    for (size_t size = 1; size <= 40; ++size) {
        const std::string plain(size, 'x');
        EXPECT_EQ(escaped(plain, LogEscape::standard), plain);
        for (size_t at = 0; at < size; ++at) {
            for (unsigned char special : {'"', '\\', '\x1f', '\0', '\x7f', '\x80', '\xff'}) {
                std::string text = plain;
                text[at] = char(special);
                std::string line = escaped(text, LogEscape::standard);
                EXPECT_EQ(line.size(), size + 3) << size << ' ' << at << ' ' << int(special);
                EXPECT_EQ(line.substr(at, 2), "\\x");
            }
        }
    }
}

TEST(LogEscapes, BytesNextToSpecialOnesArePlain) {
    for (int c = 0x20; c < 0x7f; ++c) {
        if (c == '"' || c == '\\') continue;
        std::string text(16, char(c));
        EXPECT_EQ(escaped(text, LogEscape::standard), text) << c;
    }
}
