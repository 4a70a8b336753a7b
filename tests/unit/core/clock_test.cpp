// Cached clocks, and dates in every form.
#include "core/clock.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <random>

namespace {

using namespace core;

std::string http_date(time_t when) {
    char text[29];
    format_http_date(when, text);
    return {text, 29};
}

std::string cookie_date(time_t when) {
    char text[64];
    return {text, format_cookie_date(when, text)};
}

TEST(Clock, CachedTimes) {
    Clock::update();
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    EXPECT_NEAR(double(Clock::wall_ms()), double(now.tv_sec) * 1000 + double(now.tv_nsec / 1000000),
                1000);
    EXPECT_NEAR(double(Clock::monotonic_ms()), double(Clock::precise_us() / 1000), 1000);
    EXPECT_EQ(Clock::http_date(), http_date(Clock::seconds()));
    char wanted[64];
    time_t seconds = Clock::seconds();
    tm local;
    localtime_r(&seconds, &local);
    strftime(wanted, sizeof wanted, "%Y/%m/%d %H:%M:%S", &local);
    EXPECT_EQ(Clock::log_date(), wanted);
    strftime(wanted, sizeof wanted, "%d/%b/%Y:%H:%M:%S %z", &local);
    EXPECT_EQ(Clock::access_date(), wanted);
    strftime(wanted, sizeof wanted, "%Y-%m-%dT%H:%M:%S%z", &local);
    std::string iso = wanted;
    iso.insert(iso.size() - 2, ":");
    EXPECT_EQ(Clock::iso_date(), iso);
}

TEST(Dates, Formats) {
    EXPECT_EQ(http_date(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");
    EXPECT_EQ(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    EXPECT_EQ(cookie_date(784111777), "Sun, 06-Nov-94 08:49:37 GMT");
    EXPECT_EQ(cookie_date(2145916799), "Thu, 31-Dec-37 23:59:59 GMT");
    EXPECT_EQ(cookie_date(2145916800), "Fri, 01-Jan-2038 00:00:00 GMT");
}

TEST(Dates, ParsesAllThreeForms) {
    EXPECT_EQ(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), 784111777);
    EXPECT_EQ(parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT"), 784111777);
    EXPECT_EQ(parse_http_date("Sun Nov  6 08:49:37 1994"), 784111777);
    EXPECT_EQ(parse_http_date("Thu, 29 Feb 2024 00:00:00 GMT"), 1709164800);
    EXPECT_EQ(parse_http_date("Fri, 31 Dec 9999 23:59:59 GMT"), 253402300799);
}

TEST(Dates, RefusesTheRest) {
    for (const char* bad : {"", "Sun", "Sun,", "Sun, 06 Nov 1994", "06 Nov 1994 08:49:37 GMT",
                            "Sun, 32 Nov 1994 08:49:37 GMT", "Sun, 31 Nov 1994 08:49:37 GMT",
                            "Thu, 29 Feb 2023 00:00:00 GMT", "Sun, 00 Nov 1994 08:49:37 GMT",
                            "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT",
                            "Sun, 06 Nov 1994 08:60:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMTx",
                            "Sun, 06 Nov 1994 08:49:37 CET", "Sun, -6 Nov 1994 08:49:37 GMT",
                            "Sun, 06 Nov 1969 08:49:37 GMT", "Sun Nov 6 08:49:37 1994",
                            "Sun, 06-Nov 94 08:49:37 GMT", "0", "\xff\xff", "Sunday, "}) {
        EXPECT_EQ(parse_http_date(bad), -1) << bad;
    }
}

TEST(Dates, RoundTrip) {
    std::mt19937_64 random(3);
    for (int i = 0; i < 20000; ++i) {
        time_t when = time_t(random() % 253402300800ull);
        ASSERT_EQ(parse_http_date(http_date(when)), when);
    }
}

}  // namespace
