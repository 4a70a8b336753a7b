// Cached clocks and the date formats of HTTP and the logs.
#include "core/clock.h"

#include <sys/time.h>

#include <cstdio>
#include <cstring>

#include "core/text.h"

namespace core {

Clock::Now Clock::now_;

namespace {

constexpr char days[][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
constexpr const char* long_days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday",
                                     "Friday", "Saturday"};
constexpr char months[][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                              "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

char* two(char* to, int value) {
    to[0] = char('0' + value / 10 % 10);
    to[1] = char('0' + value % 10);
    return to + 2;
}

char* four(char* to, int value) { return two(two(to, value / 100), value % 100); }

char* word(char* to, const char* text) {
    size_t size = std::strlen(text);
    std::memcpy(to, text, size);
    return to + size;
}

char* time_of_day(char* to, const tm& t) {
    to = two(to, t.tm_hour);
    *to++ = ':';
    to = two(to, t.tm_min);
    *to++ = ':';
    return two(to, t.tm_sec);
}

}  // namespace

void Clock::update() {
    timespec wall, monotonic;
    clock_gettime(CLOCK_REALTIME, &wall);
    clock_gettime(CLOCK_MONOTONIC, &monotonic);
    now_.wall_ms = int64_t(wall.tv_sec) * 1000 + wall.tv_nsec / 1000000;
    now_.monotonic_ms = int64_t(monotonic.tv_sec) * 1000 + monotonic.tv_nsec / 1000000;
    if (wall.tv_sec != now_.formatted) format_dates();
}

uint64_t Clock::precise_us() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return uint64_t(now.tv_sec) * 1000000 + uint64_t(now.tv_nsec) / 1000;
}

void Clock::format_dates() {
    now_.formatted = seconds();
    format_http_date(now_.formatted, now_.http_date);

    tm t;
    localtime_r(&now_.formatted, &t);
    char* at = four(now_.log_date, t.tm_year + 1900);
    *at++ = '/';
    at = two(at, t.tm_mon + 1);
    *at++ = '/';
    at = two(at, t.tm_mday);
    *at++ = ' ';
    time_of_day(at, t);

    long offset = t.tm_gmtoff / 60;
    char sign = offset < 0 ? '-' : '+';
    int away = int(offset < 0 ? -offset : offset);

    at = two(now_.access_date, t.tm_mday);
    *at++ = '/';
    at = word(at, months[t.tm_mon]);
    *at++ = '/';
    at = four(at, t.tm_year + 1900);
    *at++ = ':';
    at = time_of_day(at, t);
    *at++ = ' ';
    *at++ = sign;
    at = two(at, away / 60);
    two(at, away % 60);

    at = four(now_.iso_date, t.tm_year + 1900);
    *at++ = '-';
    at = two(at, t.tm_mon + 1);
    *at++ = '-';
    at = two(at, t.tm_mday);
    *at++ = 'T';
    at = time_of_day(at, t);
    *at++ = sign;
    at = two(at, away / 60);
    *at++ = ':';
    two(at, away % 60);
}

void format_http_date(time_t when, char* to) {
    tm t;
    gmtime_r(&when, &t);
    char* at = word(to, days[t.tm_wday]);
    at = word(at, ", ");
    at = two(at, t.tm_mday);
    *at++ = ' ';
    at = word(at, months[t.tm_mon]);
    *at++ = ' ';
    at = four(at, t.tm_year + 1900);
    *at++ = ' ';
    at = time_of_day(at, t);
    word(at, " GMT");
}

size_t format_cookie_date(time_t when, char* to) {
    tm t;
    gmtime_r(&when, &t);
    char* at = word(to, days[t.tm_wday]);
    at = word(at, ", ");
    at = two(at, t.tm_mday);
    *at++ = '-';
    at = word(at, months[t.tm_mon]);
    *at++ = '-';
    // Netscape 3.x does not understand 4-digit years at all, and 2-digit years are ambiguous
    // from 2038 on; this is what nginx does.
    at = t.tm_year + 1900 > 2037 ? four(at, t.tm_year + 1900) : two(at, t.tm_year % 100);
    *at++ = ' ';
    at = time_of_day(at, t);
    at = word(at, " GMT");
    return size_t(at - to);
}

namespace {

// A cursor over the date's text; every taker moves on, or marks the date as bad.
struct DateReader {
    Slice rest;
    bool good = true;

    int number(size_t digits) {
        auto value = rest.size() >= digits ? parse_number(rest.substr(0, digits)) : std::nullopt;
        if (!value) {
            good = false;
            return 0;
        }
        rest.remove_prefix(digits);
        return int(*value);
    }
    void literal(Slice text) {
        if (rest.substr(0, text.size()) != text) {
            good = false;
            return;
        }
        rest.remove_prefix(text.size());
    }
    int month() {
        for (int i = 0; i < 12; ++i) {
            if (rest.substr(0, 3) == months[i]) {
                rest.remove_prefix(3);
                return i;
            }
        }
        good = false;
        return 0;
    }
    void clock(tm& t) {
        t.tm_hour = number(2);
        literal(":");
        t.tm_min = number(2);
        literal(":");
        t.tm_sec = number(2);
    }
};

bool in_range(const tm& t) {
    static constexpr int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    int year = t.tm_year + 1900;
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    int length = lengths[t.tm_mon] + (t.tm_mon == 1 && leap);
    return t.tm_hour <= 23 && t.tm_min <= 59 && t.tm_sec <= 59 && t.tm_mday >= 1 &&
           t.tm_mday <= length && year >= 1970;
}

size_t skip_day_name(Slice text) {
    for (int i = 0; i < 7; ++i) {
        if (text.starts_with(long_days[i])) return std::strlen(long_days[i]);
    }
    for (int i = 0; i < 7; ++i) {
        if (text.substr(0, 3) == days[i]) return 3;
    }
    return 0;
}

}  // namespace

time_t parse_http_date(Slice text) {
    size_t name = skip_day_name(text);
    if (name == 0 || text.size() < name + 2) return -1;
    DateReader in{text.substr(name)};
    tm t = {};
    if (in.rest[0] == ',') {
        in.literal(", ");
        t.tm_mday = in.number(2);
        bool rfc850 = in.rest.substr(0, 1) == "-";
        in.literal(rfc850 ? "-" : " ");
        t.tm_mon = in.month();
        in.literal(rfc850 ? "-" : " ");
        t.tm_year = rfc850 ? in.number(2) : in.number(4) - 1900;
        if (rfc850 && t.tm_year < 70) t.tm_year += 100;
        in.literal(" ");
        in.clock(t);
        in.literal(" GMT");
    } else {
        in.literal(" ");
        t.tm_mon = in.month();
        in.literal(" ");
        if (in.rest.substr(0, 1) == " ") {
            in.literal(" ");
            t.tm_mday = in.number(1);
        } else {
            t.tm_mday = in.number(2);
        }
        in.literal(" ");
        in.clock(t);
        in.literal(" ");
        t.tm_year = in.number(4) - 1900;
    }
    if (!in.good || !in.rest.empty() || !in_range(t)) return -1;
    return timegm(&t);
}

}  // namespace core
