// JsonWriter: separators, strings of any bytes, numbers.
#include "core/json_writer.h"

#include <gtest/gtest.h>

#include <cmath>

namespace {

using core::JsonWriter;
using core::Slice;

std::string quoted(Slice text) {
    std::string to;
    core::append_json_string(to, text);
    return to;
}

TEST(JsonWriter, CommasComeByThemselves) {
    JsonWriter json;
    json.begin_object().member("a", 1).key("list").begin_array().value(1).value("x").null();
    json.begin_object().end_object().begin_array().end_array().end_array();
    json.member("b", true).key("raw").raw("{\"c\":2}").end_object();
    EXPECT_EQ(json.text(), R"({"a":1,"list":[1,"x",null,{},[]],"b":true,"raw":{"c":2}})");
}

TEST(JsonWriter, Strings) {
    EXPECT_EQ(quoted("a\"b\\c\n\r\t"), R"("a\"b\\c\n\r\t")");
    EXPECT_EQ(quoted(Slice("\0\x1f\x7f", 3)), R"("\u0000\u001f\u007f")");
    Slice utf8 = "gr\xc3\xbc\xc3\x9f \xf0\x9f\x99\x82";
    EXPECT_EQ(quoted(utf8), '"' + std::string(utf8) + '"');
}

TEST(JsonWriter, BytesThatAreNoUtf8AreReplaced) {
    EXPECT_EQ(quoted("a\xff" "b"), R"("a\ufffdb")");
    EXPECT_EQ(quoted("\xc3"), R"("\ufffd")");                  // cut off
    EXPECT_EQ(quoted("\xc0\xaf"), R"("\ufffd\ufffd")");        // longer than need be
    EXPECT_EQ(quoted("\xed\xa0\x80"), R"("\ufffd\ufffd\ufffd")");   // a surrogate
    EXPECT_EQ(quoted("\xf4\x90\x80\x80"), R"("\ufffd\ufffd\ufffd\ufffd")");
}

TEST(JsonWriter, Numbers) {
    JsonWriter json;
    json.begin_array().value(INT64_MIN).value(UINT64_MAX).value(0.5).value(std::nan(""));
    json.value(1e300).end_array();
    EXPECT_EQ(json.text(), "[-9223372036854775808,18446744073709551615,0.5,null,1e+300]");
}

}  // namespace
