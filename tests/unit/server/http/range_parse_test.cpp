// The Range field.
#include "server/http/range_parse.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

using namespace server;

namespace {

// "206 0-4 10-14", "200", "416": the outcome in one line.
std::string outcome(core::Slice text, int64_t length = 100, int64_t max = INT64_MAX) {
    std::vector<ByteRange> ranges(static_cast<size_t>(ranges_in(text)));
    ParsedRanges parsed = parse_ranges(text, length, max, ranges.data());
    if (parsed.outcome == RangeOutcome::ignored) return "200";
    if (parsed.outcome == RangeOutcome::unsatisfiable) return "416";
    std::string out = "206";
    for (int64_t i = 0; i < parsed.count; ++i) {
        const ByteRange& range = ranges[size_t(i)];
        out += " " + std::to_string(range.begin) + "-" + std::to_string(range.end - 1);
    }
    return out;
}

}  // namespace

TEST(Ranges, Single) {
    EXPECT_EQ(outcome("bytes=0-4"), "206 0-4");
    EXPECT_EQ(outcome("BYTES= 5 - 7 "), "206 5-7");
    EXPECT_EQ(outcome("bytes=90-"), "206 90-99");
    EXPECT_EQ(outcome("bytes=-10"), "206 90-99");
    EXPECT_EQ(outcome("bytes=-1000"), "206 0-99");
    EXPECT_EQ(outcome("bytes=50-1000"), "206 50-99");
    EXPECT_EQ(outcome("bytes=99-99"), "206 99-99");
}

TEST(Ranges, Refused) {
    for (core::Slice text : {"bytes=100-", "bytes=100-200", "bytes=5-4", "bytes=a", "bytes=1",
                             "bytes=1-2x", "bytes=,1-2", "bytes=-0", "bytes= ", "bytes=--5",
                             "bytes=99999999999999999999-", "bytes=0-4,x"}) {
        EXPECT_EQ(outcome(text), "416") << text;
    }
}

TEST(Ranges, Ignored) {
    for (core::Slice text : {"", "bytes=", "lines=0-4", "bytes 0-4", "bytes=0-99,0-99",
                             "bytes=0-60,40-99"}) {
        EXPECT_EQ(outcome(text), "200") << text;
    }
    EXPECT_EQ(outcome("bytes=0-1,3-4", 100, 1), "200");
    EXPECT_EQ(outcome("bytes=-5", 0), "200");
    EXPECT_EQ(outcome("bytes=0-", 0), "200");
    std::string many = "bytes=0-0";
    for (int i = 1; i < 50; ++i) many += "," + std::to_string(i * 2) + "-" + std::to_string(i * 2);
    EXPECT_EQ(outcome(many), "200");
    EXPECT_NE(outcome(many, 100, 100), "200");
}

TEST(Ranges, Several) {
    EXPECT_EQ(outcome("bytes=0-4,10-14"), "206 0-4 10-14");
    EXPECT_EQ(outcome("bytes=10-14, 0-4"), "206 10-14 0-4");
    EXPECT_EQ(outcome("bytes=0-4,-1"), "206 0-4 99-99");
    EXPECT_EQ(outcome("bytes=200-300,0-4"), "206 0-4");
    EXPECT_EQ(outcome("bytes=0-4,"), "416");
}
