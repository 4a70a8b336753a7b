// Text helpers.
#include "core/text.h"

#include <gtest/gtest.h>

#include <climits>

namespace {

using namespace core;

TEST(Text, Case) {
    EXPECT_TRUE(iequals("Content-Type", "content-tYPE"));
    EXPECT_FALSE(iequals("a", "ab"));
    EXPECT_FALSE(iequals("[", "{"));   // differ in the case bit only
    EXPECT_FALSE(iequals("\xc3\x89", "\xc3\xa9"));
    EXPECT_TRUE(istarts_with("Bearer x", "bearer "));
    EXPECT_FALSE(istarts_with("b", "be"));
    EXPECT_EQ(ifind("abcDEF", "cde"), 2u);
    EXPECT_EQ(ifind("abc", "x"), Slice::npos);
    EXPECT_EQ(ifind("abc", ""), 0u);
    EXPECT_EQ(ifind("", "a"), Slice::npos);
    EXPECT_EQ(to_lower("AbC-9"), "abc-9");
    EXPECT_EQ(ihash("ABC"), ihash("abc"));
    EXPECT_NE(ihash("abc"), ihash("abd"));
    EXPECT_EQ(trim(" \t a b \t"), "a b");
    EXPECT_EQ(trim("  "), "");
}

TEST(Text, Numbers) {
    EXPECT_EQ(parse_number("0"), 0u);
    EXPECT_EQ(parse_number("9223372036854775807"), uint64_t(INT64_MAX));
    EXPECT_FALSE(parse_number("9223372036854775808"));
    EXPECT_EQ(parse_number("18446744073709551615", UINT64_MAX), UINT64_MAX);
    EXPECT_FALSE(parse_number("18446744073709551616", UINT64_MAX));
    EXPECT_FALSE(parse_number("99999999999999999999999", UINT64_MAX));
    for (const char* bad : {"", "+1", "-1", " 1", "1 ", "1_0", "0x1", "1.0"}) {
        EXPECT_FALSE(parse_number(bad)) << bad;
    }
    EXPECT_EQ(parse_number("255", 255), 255u);
    EXPECT_FALSE(parse_number("256", 255));
    EXPECT_FALSE(parse_number("1", 0));
    EXPECT_EQ(parse_number("0", 0), 0u);
    EXPECT_FALSE(parse_number("5", 4));
    EXPECT_EQ(parse_hex("fF"), 255u);
    EXPECT_EQ(parse_hex("7fffffffffffffff"), uint64_t(INT64_MAX));
    EXPECT_FALSE(parse_hex("8000000000000000"));
    EXPECT_FALSE(parse_hex("10000000000000001"));
    EXPECT_FALSE(parse_hex("g"));
    EXPECT_FALSE(parse_hex(""));
    EXPECT_FALSE(parse_hex("f", 14));
}

TEST(Text, Printing) {
    char room[24];
    EXPECT_EQ(format_number(0, room), "0");
    EXPECT_EQ(format_number(-1, room), "-1");
    EXPECT_EQ(format_number(INT64_MIN, room), "-9223372036854775808");
    EXPECT_EQ(format_number(INT64_MAX, room), "9223372036854775807");
    EXPECT_EQ(format_unsigned(UINT64_MAX, room), "18446744073709551615");
    std::string hex = "x";
    append_hex(hex, Slice("\x00\xff\x1a", 3));
    EXPECT_EQ(hex, "x00ff1a");
    EXPECT_EQ(format("%d %s", 5, std::string(5000, 'y').c_str()).size(), 5002u);
}

TEST(Text, EditDistance) {
    EXPECT_EQ(edit_distance("proxy_pass", "proxy_pas", 3), 1u);
    EXPECT_EQ(edit_distance("kitten", "sitting", 5), 3u);
    EXPECT_EQ(edit_distance("", "abc", 5), 3u);
    EXPECT_EQ(edit_distance("abc", "abc", 0), 0u);
    EXPECT_EQ(edit_distance("abcdefgh", "x", 2), 3u);
}

}  // namespace
