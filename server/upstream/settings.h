// UpstreamSettings: what every module that asks upstream servers lets the user say (PREFIX_pass and
// its companions). The base of such a module's conf; upstream/session reads it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "conf/directive.h"
#include "conf/values.h"
#include "server/http/variables.h"
#include "server/upstream/tls.h"

namespace server {

enum class NextUpstream : uint32_t {
    error = 1, timeout = 2, invalid_header = 4, http_500 = 8, http_502 = 16, http_503 = 32,
    http_504 = 64, http_403 = 128, http_404 = 256, http_429 = 512, non_idempotent = 1024,
    updating = 2048, off = 4096,
};
inline constexpr conf::Choice<NextUpstream> next_upstream_words[] = {
    {"error", NextUpstream::error},       {"timeout", NextUpstream::timeout},
    {"invalid_header", NextUpstream::invalid_header},
    {"http_500", NextUpstream::http_500}, {"http_502", NextUpstream::http_502},
    {"http_503", NextUpstream::http_503}, {"http_504", NextUpstream::http_504},
    {"http_403", NextUpstream::http_403}, {"http_404", NextUpstream::http_404},
    {"http_429", NextUpstream::http_429}, {"non_idempotent", NextUpstream::non_idempotent},
    {"updating", NextUpstream::updating}, {"off", NextUpstream::off}};
constexpr const auto& choices(NextUpstream) { return next_upstream_words; }

enum class IgnoredField : uint32_t {
    x_accel_redirect = 1, x_accel_expires = 2, x_accel_limit_rate = 4, x_accel_buffering = 8,
    x_accel_charset = 16, expires = 32, cache_control = 64, set_cookie = 128, vary = 256,
};
inline constexpr conf::Choice<IgnoredField> ignored_field_words[] = {
    {"X-Accel-Redirect", IgnoredField::x_accel_redirect},
    {"X-Accel-Expires", IgnoredField::x_accel_expires},
    {"X-Accel-Limit-Rate", IgnoredField::x_accel_limit_rate},
    {"X-Accel-Buffering", IgnoredField::x_accel_buffering},
    {"X-Accel-Charset", IgnoredField::x_accel_charset},
    {"Expires", IgnoredField::expires},
    {"Cache-Control", IgnoredField::cache_control},
    {"Set-Cookie", IgnoredField::set_cookie},
    {"Vary", IgnoredField::vary}};
constexpr const auto& choices(IgnoredField) { return ignored_field_words; }

// proxy_bind ADDRESS [transparent]
struct BindAddress {
    ComplexValue address;
    bool transparent = false;
    bool off = false;
};
conf::Result<void> parse_setting(BindAddress& to, const conf::Line& line);

// proxy_store on | off | PATH
struct StorePath {
    bool on = false;
    ComplexValue path;               // empty: as root and alias say
};
conf::Result<void> parse_setting(StorePath& to, const conf::Line& line);

// proxy_store_access user:rw group:r all:r
struct AccessBits {
    unsigned mode = 0600;
};
conf::Result<void> parse_setting(AccessBits& to, const conf::Line& line);

// A chain of single inheritance: directives find their fields at the object's own address.
struct UpstreamSettings : UpstreamTlsSettings {
    using Ms = conf::Milliseconds;
    using Bytes = conf::Bytes;

    Setting<Ms> connect_timeout{Ms{60000}};
    Setting<Ms> send_timeout{Ms{60000}};
    Setting<Ms> read_timeout{Ms{60000}};
    Setting<conf::Choices<NextUpstream>> next_upstream{conf::Choices<NextUpstream>(
        uint32_t(NextUpstream::error) | uint32_t(NextUpstream::timeout))};
    Setting<int64_t> next_tries{0};
    Setting<Ms> next_timeout{Ms{0}};
    Setting<Bytes> buffer_size{Bytes{4096}};
    Setting<conf::BufferSizes> buffers{conf::BufferSizes{8, 4096}};
    Setting<Bytes> busy_buffers_size{Bytes{8192}};
    Setting<Bytes> max_temp_file_size{Bytes{1 << 30}};
    Setting<Bytes> temp_file_write_size{Bytes{8192}};
    Setting<conf::TempPath> temp_path;
    Setting<bool> buffering{true};
    Setting<bool> request_buffering{true};
    Setting<bool> ignore_client_abort{false};
    Setting<bool> intercept_errors{false};
    Setting<bool> force_ranges{false};
    Setting<bool> pass_trailers{false};
    Setting<bool> socket_keepalive{false};
    Setting<Bytes> socket_receive_buffer{Bytes{0}};
    Setting<Bytes> socket_send_buffer{Bytes{0}};
    Setting<Bytes> send_lowat{Bytes{0}};
    Setting<BindAddress> bind;
    Setting<ComplexValue> limit_rate;
    Setting<conf::Choices<IgnoredField>> ignore_fields;
    Setting<StorePath> store;
    Setting<AccessBits> store_access;

    // Checks what depends on each other, and derives; `prefix` is for messages ("proxy").
    conf::Result<void> complete(const char* prefix);
};

}  // namespace server
