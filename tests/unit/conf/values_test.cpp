// Sizes, times and the other value types.
#include "conf/values.h"

#include <gtest/gtest.h>

#include <array>

#include "conf/binder.h"

namespace {

using conf::Line;
using conf::Node;

TEST(Values, Sizes) {
    EXPECT_EQ(conf::parse_size("0"), 0);
    EXPECT_EQ(conf::parse_size("512"), 512);
    EXPECT_EQ(conf::parse_size("8k"), 8192);
    EXPECT_EQ(conf::parse_size("8K"), 8192);
    EXPECT_EQ(conf::parse_size("2m"), 2 << 20);
    EXPECT_EQ(conf::parse_size("2M"), 2 << 20);
    for (auto bad : {"", "k", "1g", "-1", "1.5k", "8kk", "8 k", "x", "0x10", "1kb"}) {
        EXPECT_EQ(conf::parse_size(bad), std::nullopt) << bad;
    }
    EXPECT_EQ(conf::parse_size("9223372036854775807"), INT64_MAX);
    EXPECT_EQ(conf::parse_size("9223372036854775808"), std::nullopt);
    EXPECT_EQ(conf::parse_size("9223372036854775807k"), std::nullopt);
}

TEST(Values, Offsets) {
    EXPECT_EQ(conf::parse_offset("1g"), 1 << 30);
    EXPECT_EQ(conf::parse_offset("5G"), 5LL << 30);
    EXPECT_EQ(conf::parse_offset("1k"), 1024);
    EXPECT_EQ(conf::parse_offset("1t"), std::nullopt);
    EXPECT_EQ(conf::parse_offset("8589934592g"), std::nullopt);
}

TEST(Values, TimesInMilliseconds) {
    EXPECT_EQ(conf::parse_time_ms("10"), 10'000);
    EXPECT_EQ(conf::parse_time_ms("10s"), 10'000);
    EXPECT_EQ(conf::parse_time_ms("100ms"), 100);
    EXPECT_EQ(conf::parse_time_ms("1m"), 60'000);
    EXPECT_EQ(conf::parse_time_ms("1h30m"), 5'400'000);
    EXPECT_EQ(conf::parse_time_ms("1d 2h"), 93'600'000);
    EXPECT_EQ(conf::parse_time_ms("1w1d1h1m1s1ms"), 694'861'001);
    EXPECT_EQ(conf::parse_time_ms("1m 30"), 90'000);
    EXPECT_EQ(conf::parse_time_ms("0"), 0);
    for (auto bad : {"", "s", "1y", "1M", "1s1m", "1m1m", "1ms1s", "-1", "1x", "1.5s", "1S", " ",
                     "99999999999999999999", "9223372036854775807"}) {
        EXPECT_EQ(conf::parse_time_ms(bad), std::nullopt) << bad;
    }
}

TEST(Values, TimesInSeconds) {
    EXPECT_EQ(conf::parse_time_s("10"), 10);
    EXPECT_EQ(conf::parse_time_s("1y"), 31'536'000);
    EXPECT_EQ(conf::parse_time_s("1M"), 2'592'000);
    EXPECT_EQ(conf::parse_time_s("1y 1M 1w 1d 1h 1m 1s"), 34'822'861 - 0);
    for (auto bad : {"", "100ms", "1M1y", "1ms"}) {
        EXPECT_EQ(conf::parse_time_s(bad), std::nullopt) << bad;
    }
}

enum class Mode { off, fast, slow };
constexpr auto choices(Mode) {
    return std::to_array<conf::Choice<Mode>>({{"off", Mode::off}, {"fast", Mode::fast}});
}
enum class Kind : uint32_t { a = 1, b = 2, c = 4 };
constexpr auto choices(Kind) {
    return std::to_array<conf::Choice<Kind>>({{"a", Kind::a}, {"b", Kind::b}, {"c", Kind::c}});
}

// Reads `args` of a directive "d" as T: the value, or the error's text.
template <class T>
std::string read_as(T& to, std::vector<std::string> args, conf::Binder& binder) {
    Node node;
    node.name = "d";
    node.args = std::move(args);
    using conf::parse_setting;
    auto read = parse_setting(to, Line{node, binder, conf::in_http});
    return read ? "" : read.error().what;
}

class Settings : public testing::Test {
  protected:
    conf::Binder binder{{}};
};

TEST_F(Settings, Flags) {
    bool flag = false;
    EXPECT_EQ(read_as(flag, {"on"}, binder), "");
    EXPECT_TRUE(flag);
    EXPECT_EQ(read_as(flag, {"OFF"}, binder), "");
    EXPECT_FALSE(flag);
    EXPECT_EQ(read_as(flag, {"yes"}, binder),
              "invalid value \"yes\" in \"d\" directive, it must be \"on\" or \"off\"");
}

TEST_F(Settings, Numbers) {
    int64_t number = 0;
    EXPECT_EQ(read_as(number, {"5000000000"}, binder), "");
    EXPECT_EQ(number, 5'000'000'000);
    EXPECT_EQ(read_as(number, {"-1"}, binder), "\"d\" directive invalid number");
    int small = 0;
    EXPECT_EQ(read_as(small, {"5000000000"}, binder), "\"d\" directive invalid number");
    EXPECT_EQ(read_as(small, {"7"}, binder), "");
    EXPECT_EQ(small, 7);
}

TEST_F(Settings, Quantities) {
    conf::Bytes bytes;
    EXPECT_EQ(read_as(bytes, {"8k"}, binder), "");
    EXPECT_EQ(bytes, 8192);
    EXPECT_EQ(read_as(bytes, {"8g"}, binder), "\"d\" directive invalid value");
    conf::Offset offset;
    EXPECT_EQ(read_as(offset, {"1g"}, binder), "");
    EXPECT_EQ(offset, 1 << 30);
    conf::Milliseconds ms;
    EXPECT_EQ(read_as(ms, {"1s"}, binder), "");
    EXPECT_EQ(ms, 1000);
    conf::Seconds seconds;
    EXPECT_EQ(read_as(seconds, {"1m"}, binder), "");
    EXPECT_EQ(seconds, 60);
    conf::BufferSizes buffers;
    EXPECT_EQ(read_as(buffers, {"4", "8k"}, binder), "");
    EXPECT_EQ(buffers.count, 4);
    EXPECT_EQ(buffers.bytes, 8192);
    for (auto bad : {"0", "x", ""}) {
        EXPECT_EQ(read_as(buffers, {bad, "8k"}, binder), "\"d\" directive invalid value");
        EXPECT_EQ(read_as(buffers, {"4", bad}, binder), "\"d\" directive invalid value");
    }
    EXPECT_EQ(read_as(buffers, {"4"}, binder), "\"d\" directive invalid value");
}

TEST_F(Settings, TempPaths) {
    conf::TempPath path;
    EXPECT_EQ(read_as(path, {"/tmp/x/", "1", "2", "3"}, binder), "");
    EXPECT_EQ(path.path, "/tmp/x");
    EXPECT_EQ(path.levels[0] + 10 * path.levels[1] + 100 * path.levels[2], 321);
    EXPECT_EQ(read_as(path, {"/"}, binder), "");
    EXPECT_EQ(path.path, "/");
    for (auto bad : {"0", "x", "11", "-1"}) {
        EXPECT_EQ(read_as(path, {"x", bad}, binder), "\"d\" directive invalid value");
    }
    EXPECT_EQ(read_as(path, {"x", "5", "5", "1"}, binder), "\"d\" directive invalid value");
}

TEST_F(Settings, Texts) {
    std::string text;
    EXPECT_EQ(read_as(text, {"a b"}, binder), "");
    EXPECT_EQ(text, "a b");
    std::vector<std::string> list;
    EXPECT_EQ(read_as(list, {"a", "b"}, binder), "");
    EXPECT_EQ(list, (std::vector<std::string>{"a", "b"}));
}

TEST_F(Settings, Collections) {
    conf::List list;
    EXPECT_EQ(read_as(list, {"a"}, binder), "");
    EXPECT_EQ(read_as(list, {"b"}, binder), "");
    EXPECT_EQ(list.items, (std::vector<std::string>{"a", "b"}));
    conf::Pairs pairs;
    EXPECT_EQ(read_as(pairs, {"a", "1"}, binder), "");
    EXPECT_EQ(read_as(pairs, {"b", "2"}, binder), "");
    ASSERT_EQ(pairs.items.size(), 2u);
    EXPECT_EQ(pairs.items[1].second, "2");
    EXPECT_EQ(read_as(pairs, {"a"}, binder), "\"d\" directive invalid value");
}

TEST_F(Settings, Choices) {
    Mode mode = Mode::slow;
    EXPECT_EQ(read_as(mode, {"Fast"}, binder), "");
    EXPECT_EQ(mode, Mode::fast);
    EXPECT_EQ(read_as(mode, {"slow"}, binder), "invalid value \"slow\"");
    conf::Choices<Kind> kinds;
    EXPECT_EQ(read_as(kinds, {"a", "c"}, binder), "");
    EXPECT_TRUE(kinds.has(Kind::a) && !kinds.has(Kind::b) && kinds.has(Kind::c));
    EXPECT_EQ(read_as(kinds, {"a", "x"}, binder), "invalid value \"x\"");
    EXPECT_TRUE(binder.warnings().empty());
    EXPECT_EQ(read_as(kinds, {"a", "a"}, binder), "");
    ASSERT_EQ(binder.warnings().size(), 1u);
    EXPECT_EQ(binder.warnings()[0], "duplicate value \"a\"");
}

TEST_F(Settings, Bounds) {
    EXPECT_TRUE(conf::check_bounds(1, 1, 9));
    EXPECT_EQ(conf::check_bounds(0, 1, 9).error().what, "value must be between 1 and 9");
    EXPECT_EQ(conf::check_bounds(0, 1).error().what,
              "value must be equal to or greater than 1");
}

}  // namespace
