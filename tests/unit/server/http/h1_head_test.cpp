// HeadScan: where a head ends, whatever the reads looked like.
#include "server/http/h1_head.h"

#include <gtest/gtest.h>

#include <string>

namespace server {
namespace {

constexpr HeadLimits limits{8192, 33792};

struct Outcome {
    HeadScan::Result result;
    size_t end;
    int status;
    bool operator==(const Outcome&) const = default;
};

Outcome scan_in_steps(const std::string& bytes, size_t first, size_t step) {
    HeadScan scan;
    auto result = HeadScan::Result::incomplete;
    for (size_t size = first; result == HeadScan::Result::incomplete; size += step) {
        size = std::min(size, bytes.size());
        result = scan.scan({bytes.data(), size}, limits);
        if (size == bytes.size()) break;
    }
    return {result, result == HeadScan::Result::complete ? scan.end() : 0, scan.status()};
}

Outcome scan_whole(const std::string& bytes) { return scan_in_steps(bytes, bytes.size(), 1); }

TEST(HeadScan, FindsTheEndOfAHead) {
    std::string head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    EXPECT_EQ(scan_whole(head + "more"), (Outcome{HeadScan::Result::complete, head.size(), 0}));
}

TEST(HeadScan, SaysWhereThePartsAre) {
    HeadScan scan;
    std::string head = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    ASSERT_EQ(scan.scan(head, limits), HeadScan::Result::complete);
    EXPECT_EQ(head.substr(scan.start(), scan.line_end() - scan.start()), "GET / HTTP/1.1");
    EXPECT_EQ(head.substr(scan.block()), "Host: a\r\n\r\n");
}

TEST(HeadScan, TakesHeadsOfBareLineFeedsOnly) {
    HeadScan scan;
    ASSERT_EQ(scan.scan("GET / HTTP/1.1\nHost: a\n\n", limits), HeadScan::Result::complete);
    EXPECT_TRUE(scan.lf_only());
    EXPECT_EQ(scan_whole("GET / HTTP/1.1\r\nX: a\nY: b\r\n\r\n").status, 400);
    EXPECT_EQ(scan_whole("GET / HTTP/1.1\nX: a\r\nY: b\n\n").status, 400);
}

TEST(HeadScan, RefusesFoldedLines) {
    EXPECT_EQ(scan_whole("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n").status, 400);
    EXPECT_EQ(scan_whole("GET / HTTP/1.1\r\n X: a\r\n\r\n").status, 400);
}

TEST(HeadScan, RefusesWhatIsNoRequestAtOnce) {
    EXPECT_EQ(scan_whole(std::string("\x16\x03\x01\x02", 4)).status, 400);
    EXPECT_EQ(scan_whole("get /").status, 400);
    EXPECT_EQ(scan_whole("GET /").result, HeadScan::Result::incomplete);
}

TEST(HeadScan, HoldsTheLimits) {
    EXPECT_EQ(scan_whole("GET /" + std::string(9000, 'a')).status, 414);
    EXPECT_EQ(scan_whole("GET / HTTP/1.1\r\nX: " + std::string(9000, 'a')).status, 494);
    std::string many = "GET / HTTP/1.1\r\n";
    for (int i = 0; i < 10; ++i) many += "X: " + std::string(4000, 'a') + "\r\n";
    EXPECT_EQ(scan_whole(many).status, 494);
    std::string blanks;
    for (int i = 0; i < 534; ++i) blanks += "\r\n";
    EXPECT_EQ(scan_whole(blanks + "GET / HTTP/1.1\r\n\r\n").result, HeadScan::Result::complete);
    for (int i = 0; i < 32768; ++i) blanks += "\r\n";
    EXPECT_EQ(scan_whole(blanks).status, 400);
}

TEST(HeadScan, DoesNotDependOnHowTheBytesArrive) {
    for (const char* text : {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\r\n\r\nx",
                             "GET / HTTP/1.1\r\nX: a\nY: b\r\n\r\n", "G@T / HTTP/1.1\r\n\r\n",
                             "GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", "GET /\nHost: a\n\n"}) {
        std::string bytes = text;
        Outcome whole = scan_whole(bytes);
        for (size_t first = 1; first < bytes.size(); ++first) {
            EXPECT_EQ(scan_in_steps(bytes, first, bytes.size()), whole) << text << " at " << first;
        }
        EXPECT_EQ(scan_in_steps(bytes, 1, 1), whole) << text;
    }
}

// A remembered block, as HeadMemo would keep it.
HeadMemo::Entry remembered(core::Slice block, size_t longest_line) {
    HeadMemo::Entry entry;
    entry.hash = 1;
    entry.size = uint16_t(block.size());
    entry.longest_line = uint16_t(longest_line);
    block.copy(entry.block, block.size());
    return entry;
}

TEST(HeadScan, TakesAKnownBlockWhole) {
    auto known = remembered("Host: a\r\n\r\n", 7);
    HeadScan scan;
    std::string head = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    ASSERT_EQ(scan.scan(head + "GET /", limits, &known), HeadScan::Result::complete);
    EXPECT_TRUE(scan.known());
    EXPECT_EQ(scan.end(), head.size());
    EXPECT_EQ(head.substr(scan.start(), scan.line_end() - scan.start()), "GET / HTTP/1.1");
}

TEST(HeadScan, LooksAtTheLinesOfAnotherBlock) {
    auto known = remembered("Host: a\r\n\r\n", 7);
    for (std::string rest : {"Host: b\r\n\r\n", "Host: a\r\nX: y\r\n\r\n"}) {
        HeadScan scan;
        std::string head = "GET / HTTP/1.1\r\n" + rest;
        ASSERT_EQ(scan.scan(head, limits, &known), HeadScan::Result::complete);
        EXPECT_FALSE(scan.known());
        EXPECT_EQ(scan.end(), head.size());
    }
    HeadScan scan;
    EXPECT_EQ(scan.scan("GET / HTTP/1.1\nHost: a\r\n\r\n", limits, &known),
              HeadScan::Result::bad);
}

TEST(HeadScan, HoldsTheLimitsOfKnownBlocksToo) {
    auto known = remembered("Host: abcdefghij\r\n\r\n", 16);
    std::string head = "GET / HTTP/1.1\r\nHost: abcdefghij\r\n\r\n";
    HeadScan line, total, enough;
    EXPECT_EQ(line.scan(head, {15, 1000}, &known), HeadScan::Result::bad);
    EXPECT_EQ(total.scan(head, {100, head.size() - 1}, &known), HeadScan::Result::bad);
    EXPECT_EQ(enough.scan(head, {16, head.size()}, &known), HeadScan::Result::complete);
}

}  // namespace
}  // namespace server
