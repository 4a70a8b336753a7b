// Time from Lua: ngx.now, ngx.time, ngx.today, ngx.localtime, ngx.utctime, ngx.http_time,
// ngx.cookie_time, ngx.parse_http_time, ngx.update_time. All from the clock that the loop caches.
#include <cstdio>
#include <cstring>
#include <ctime>

#include "core/clock.h"
#include "lua/api/ffi.h"

namespace lua {
namespace {

constexpr size_t date_bytes = 10;          // 2010-11-19
constexpr size_t date_time_bytes = 19;     // 2010-11-19 20:56:31

// The local date and time of the cached second; the log's form differs only in two separators.
void local_date_time(unsigned char* to) {
    std::memcpy(to, core::Clock::log_date().data(), date_time_bytes);
    to[4] = to[7] = '-';
}

}  // namespace
}  // namespace lua

LUA_FFI double ngx_http_lua_ffi_now(void) {
    return double(core::Clock::wall_ms()) / 1000.0;
}

LUA_FFI long ngx_http_lua_ffi_time(void) {
    return long(core::Clock::seconds());
}

LUA_FFI long ngx_http_lua_ffi_monotonic_msec(void) {
    return long(core::Clock::monotonic_ms());
}

LUA_FFI void ngx_http_lua_ffi_update_time(void) {
    core::Clock::update();
}

LUA_FFI void ngx_http_lua_ffi_today(unsigned char* buf) {
    unsigned char whole[lua::date_time_bytes];
    lua::local_date_time(whole);
    std::memcpy(buf, whole, lua::date_bytes);
}

LUA_FFI void ngx_http_lua_ffi_localtime(unsigned char* buf) {
    lua::local_date_time(buf);
}

LUA_FFI void ngx_http_lua_ffi_utctime(unsigned char* buf) {
    time_t now = core::Clock::seconds();
    struct tm utc;
    gmtime_r(&now, &utc);
    char text[64];
    std::snprintf(text, sizeof text, "%04d-%02d-%02d %02d:%02d:%02d", utc.tm_year + 1900,
                  utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec);
    std::memcpy(buf, text, lua::date_time_bytes);
}

LUA_FFI int ngx_http_lua_ffi_cookie_time(unsigned char* buf, long t) {
    return int(core::format_cookie_date(t, reinterpret_cast<char*>(buf)));
}

LUA_FFI void ngx_http_lua_ffi_http_time(unsigned char* buf, long t) {
    core::format_http_date(t, reinterpret_cast<char*>(buf));
}

LUA_FFI void ngx_http_lua_ffi_parse_http_time(const unsigned char* str, size_t len,
    long* time) {
    *time = long(core::parse_http_date(lua::slice(str, len)));
}
