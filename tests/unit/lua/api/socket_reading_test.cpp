// Patterns of receive calls: the same answer however the bytes are cut.
#include "lua/api/socket_reading.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace {

using lua::Reading;
using lua::UntilPattern;

struct Outcome {
    bool done;
    std::string given;
    std::string left;
};

// Feeds `text` in pieces of `step` bytes until the reading is satisfied.
Outcome feed(Reading reading, std::string text, size_t step) {
    std::string unread;
    size_t fed = 0;
    bool done = reading.scan(unread);
    while (!done && fed < text.size()) {
        unread += text.substr(fed, step);
        fed = std::min(fed + step, text.size());
        done = reading.scan(unread);
    }
    return {done, unread.substr(0, reading.given()),
            unread.substr(reading.taken()) + text.substr(fed)};
}

std::string until(const char* pattern, const std::string& text, size_t step,
                  bool inclusive = false) {
    UntilPattern compiled(pattern, inclusive);
    Outcome outcome = feed(Reading::until(compiled, 0), text, step);
    return (outcome.done ? "+" : "-") + outcome.given + "|" + outcome.left;
}

TEST(SocketReading, Line) {
    for (size_t step : {1, 2, 100}) {
        Outcome outcome = feed(Reading::line(), "abc\r\ndef", step);
        EXPECT_TRUE(outcome.done);
        EXPECT_EQ(outcome.given, "abc\r");
        EXPECT_EQ(outcome.left, "def");
        EXPECT_FALSE(feed(Reading::line(), "abc", step).done);
    }
}

TEST(SocketReading, LineOfLimitedLength) {
    for (size_t step : {1, 2, 100}) {
        EXPECT_EQ(feed(Reading::line(3), "abc\ndef", step).given, "abc");
        for (const char* text : {"abcd\ndef", "abcd"}) {
            Outcome outcome = feed(Reading::line(3), text, step);
            EXPECT_TRUE(outcome.done);
            EXPECT_EQ(outcome.given, "");
            EXPECT_EQ(outcome.left, text);
        }
        EXPECT_FALSE(feed(Reading::line(3), "abc", step).done);
    }
}

TEST(SocketReading, ExactlyAndAny) {
    EXPECT_EQ(feed(Reading::exactly(4), "abcdef", 1).given, "abcd");
    EXPECT_EQ(feed(Reading::exactly(4), "abc", 1).given, "abc");
    EXPECT_FALSE(feed(Reading::exactly(4), "abc", 1).done);
    EXPECT_EQ(Reading::exactly(10).wanted(4), 6u);
    EXPECT_EQ(feed(Reading::any(4), "abcdef", 3).given, "abc");
    EXPECT_EQ(feed(Reading::any(2), "abcdef", 3).given, "ab");
    EXPECT_FALSE(feed(Reading::any(2), "", 3).done);
}

TEST(SocketReading, UntilFindsWhatFindFinds) {
    for (const char* pattern : {"--abc", "aa", "aab", "aaaab", "abcabd", "x", "--abc--abd"}) {
        for (const char* text : {"hello--abc", "--abc", "a--a--ab--abcd", "aaaaab", "aaaaaaab",
                                 "abcabcabd", "ab", "x", "--abc--abc--abd-", "----abc"}) {
            std::string all = text;
            size_t at = all.find(pattern);
            for (size_t step = 1; step < 6; ++step) {
                std::string got = until(pattern, all, step);
                if (at == std::string::npos) {
                    EXPECT_EQ(got[0], '-') << pattern << " in " << text;
                    continue;
                }
                EXPECT_EQ(got, "+" + all.substr(0, at) + "|" +
                                   all.substr(at + std::string(pattern).size()));
                EXPECT_EQ(until(pattern, all, step, true)[1 + at], pattern[0]);
            }
        }
    }
}

TEST(SocketReading, WhatMayBeThePatternIsHeldBack) {
    EXPECT_EQ(until("--abc", "hello--ab", 3), "-hello|--ab");
}

TEST(SocketReading, SizedPieces) {
    UntilPattern pattern("--abc", false);
    std::string text = "hello, world -ab--abc--z", unread = text;
    std::vector<std::string> pieces;
    while (!pattern.ended) {
        Outcome outcome = feed(Reading::until(pattern, 4), unread, 1);
        ASSERT_TRUE(outcome.done);
        pieces.push_back(outcome.given);
        unread = outcome.left;
    }
    EXPECT_EQ(pieces, (std::vector<std::string>{"hell", "o, w", "orld", " -ab", ""}));
    EXPECT_EQ(unread, "--z");
}

}  // namespace
