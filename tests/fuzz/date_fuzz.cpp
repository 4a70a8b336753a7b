// Fuzzes the date parser: whatever it accepts must print and parse back to the same second.
#include <cstdlib>

#include "core/clock.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    time_t when = core::parse_http_date({reinterpret_cast<const char*>(data), size});
    if (when < 0) return 0;
    char text[29];
    core::format_http_date(when, text);
    if (core::parse_http_date({text, sizeof text}) != when) std::abort();
    char cookie[64];
    if (core::format_cookie_date(when, cookie) > 31) std::abort();
    return 0;
}
