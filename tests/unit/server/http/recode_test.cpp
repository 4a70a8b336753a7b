// Charset tables and recoding piece by piece.
#include "server/http/recode.h"

#include <gtest/gtest.h>

#include <string>

using server::CharsetTable;
using server::LineBuffer;
using server::Recoder;

namespace {

// Recodes `text` in pieces cut at `cuts`.
std::string recode(const CharsetTable& table, Recoder::Direction direction, core::Slice text,
                   std::initializer_list<size_t> cuts = {}) {
    Recoder recoder(table, direction);
    LineBuffer out;
    size_t from = 0;
    for (size_t cut : cuts) {
        recoder.feed(text.substr(from, cut - from), out);
        from = cut;
    }
    recoder.feed(text.substr(from), out);
    return std::string(out.text());
}

const CharsetTable& cyrillic() {
    static const CharsetTable* table = [] {
        auto* made = new CharsetTable(true);
        made->map_utf8(0xe0, "\xd0\xb0");
        made->map_utf8(0xe1, "\xd0\xb1");
        made->map_utf8(0xb9, "\xe2\x84\x96");
        return made;
    }();
    return *table;
}

}  // namespace

TEST(Recoding, SingleByteCharsets) {
    CharsetTable table(false);
    table.map(0xe0, 0xc1);
    EXPECT_EQ(recode(table, Recoder::forward, "a\xe0\xe1"), "a\xc1?");
    EXPECT_EQ(recode(table, Recoder::backward, "a\xc1\xe1"), "a\xe0?");
}

TEST(Recoding, ToUtf8) {
    EXPECT_EQ(recode(cyrillic(), Recoder::forward, "x\xe0\xe1\xb9\xff"),
              "x\xd0\xb0\xd0\xb1\xe2\x84\x96?");
}

TEST(Recoding, NoUtf8Character) {
    CharsetTable table(true);
    EXPECT_FALSE(table.map_utf8(0xe0, ""));
    EXPECT_FALSE(table.map_utf8(0xe0, "\xd0"));
    EXPECT_FALSE(table.map_utf8(0xe0, "\xd0\xb0x"));
    EXPECT_FALSE(table.map_utf8(0xe0, "\xf0\x9f\x98\x80"));
}

// Known, unknown, beyond the first plane, malformed, overlong, cut off by ASCII, then a known one.
TEST(Recoding, FromUtf8AtEverySplit) {
    const core::Slice text =
        "x\xd0\xb0\xe2\x84\x96\xc3\xa9\xf0\x9f\x98\x80\xff\xc0\x80\xe2\x84y\xd0z\xe2\xd0\xb1";
    const std::string whole = recode(cyrillic(), Recoder::backward, text);
    EXPECT_EQ(whole, "x\xe0\xb9&#233;&#128512;????y?z?\xe1");
    for (size_t a = 0; a <= text.size(); ++a) {
        EXPECT_EQ(recode(cyrillic(), Recoder::backward, text, {a}), whole) << a;
        for (size_t b = a; b <= text.size(); ++b) {
            EXPECT_EQ(recode(cyrillic(), Recoder::backward, text, {a, b}), whole) << a << ' ' << b;
        }
    }
}

TEST(Recoding, IncompleteEndIsDropped) {
    EXPECT_EQ(recode(cyrillic(), Recoder::backward, "x\xd0"), "x");
}
