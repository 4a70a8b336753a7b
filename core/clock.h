// Cached time: read once per loop turn, so that a request costs no clock call. Wall time for logs
// and headers, monotonic time for timers. Formatted dates are made at most once a second.
#pragma once

#include <cstdint>
#include <ctime>

#include "core/slice.h"

namespace core {

class Clock {
  public:
    static void update();                       // reads both clocks

    static int64_t monotonic_ms() { return now_.monotonic_ms; }
    static int64_t wall_ms() { return now_.wall_ms; }        // since 1970
    static time_t seconds() { return time_t(now_.wall_ms / 1000); }
    static Slice http_date() { return {now_.http_date, 29}; } // Sun, 06 Nov 1994 08:49:37 GMT
    static Slice log_date() { return {now_.log_date, 19}; }   // 1970/09/28 12:00:00, local time
    static Slice access_date() { return {now_.access_date, 26}; }  // 28/Sep/1970:12:00:00 +0600
    static Slice iso_date() { return {now_.iso_date, 25}; }   // 1970-09-28T12:00:00+06:00

    static uint64_t precise_us();               // monotonic, not cached

  private:
    struct Now {
        int64_t monotonic_ms = 0;
        int64_t wall_ms = 0;
        time_t formatted = -1;
        char http_date[32];
        char log_date[24];
        char access_date[32];
        char iso_date[32];
    };
    static void format_dates();
    static Now now_;
};

// RFC 9110 5.6.7 dates. format_http_date writes 29 bytes. parse_http_date takes all three forms
// and returns -1 when the text is none of them.
void format_http_date(time_t when, char* to);
time_t parse_http_date(Slice text);
// "Sun, 06-Nov-94 08:49:37 GMT" (4-digit year from 2038 on), as cookies use; returns its length.
size_t format_cookie_date(time_t when, char* to);

}  // namespace core
