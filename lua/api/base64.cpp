// ngx.encode_base64, ngx.decode_base64, ngx.decode_base64mime and ngx.base64's URL variant.
// Pure functions. The caller gives room enough: 4 bytes for 3, or 3 for 4, rounded up.
#include <array>
#include <cstdint>

#include "lua/api/ffi.h"

namespace lua {
namespace {

constexpr char standard[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr char url_safe[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr uint8_t not_in_alphabet = 0xff;

constexpr std::array<uint8_t, 256> values_of(const char* alphabet) {
    std::array<uint8_t, 256> values{};
    for (auto& value : values) value = not_in_alphabet;
    for (uint8_t n = 0; n < 64; n++) values[uint8_t(alphabet[n])] = n;
    return values;
}
constexpr auto standard_values = values_of(standard);
constexpr auto url_safe_values = values_of(url_safe);

size_t encode(const uint8_t* from, size_t length, uint8_t* to, const char* alphabet, bool pad) {
    uint8_t* const start = to;
    for (; length > 2; from += 3, length -= 3) {
        uint32_t bits = uint32_t(from[0]) << 16 | uint32_t(from[1]) << 8 | from[2];
        *to++ = uint8_t(alphabet[bits >> 18]);
        *to++ = uint8_t(alphabet[bits >> 12 & 63]);
        *to++ = uint8_t(alphabet[bits >> 6 & 63]);
        *to++ = uint8_t(alphabet[bits & 63]);
    }
    if (length) {
        uint32_t bits = uint32_t(from[0]) << 16 | (length == 2 ? uint32_t(from[1]) << 8 : 0);
        *to++ = uint8_t(alphabet[bits >> 18]);
        *to++ = uint8_t(alphabet[bits >> 12 & 63]);
        if (length == 2) *to++ = uint8_t(alphabet[bits >> 6 & 63]);
        if (pad) {
            if (length == 1) *to++ = '=';
            *to++ = '=';
        }
    }
    return size_t(to - start);
}

enum class Foreign { refused, skipped };

// Decodes up to the first '='; what stands behind it is ignored, as upstream does. False when a
// byte is not of the alphabet (and those are refused) or a single character is left over.
bool decode(const uint8_t* from, size_t length, uint8_t* to, size_t* written,
            const std::array<uint8_t, 256>& values, Foreign foreign) {
    uint8_t* const start = to;
    uint32_t bits = 0;
    int held = 0;
    *written = 0;
    for (size_t at = 0; at < length && from[at] != '='; at++) {
        uint8_t value = values[from[at]];
        if (value == not_in_alphabet) {
            if (foreign == Foreign::refused) return false;
            continue;
        }
        bits = bits << 6 | value;
        if (++held < 4) continue;
        *to++ = uint8_t(bits >> 16);
        *to++ = uint8_t(bits >> 8);
        *to++ = uint8_t(bits);
        held = 0;
        bits = 0;
    }
    if (held == 1) return false;
    if (held == 2) {
        *to++ = uint8_t(bits >> 4);
    } else if (held == 3) {
        *to++ = uint8_t(bits >> 10);
        *to++ = uint8_t(bits >> 2);
    }
    *written = size_t(to - start);
    return true;
}

}  // namespace
}  // namespace lua

LUA_FFI size_t ngx_http_lua_ffi_encode_base64(const unsigned char* src, size_t len,
    unsigned char* dst, int no_padding) {
    return lua::encode(src, len, dst, lua::standard, !no_padding);
}

LUA_FFI int ngx_http_lua_ffi_decode_base64(const unsigned char* src, size_t len,
    unsigned char* dst, size_t* dlen) {
    return lua::decode(src, len, dst, dlen, lua::standard_values, lua::Foreign::refused);
}

LUA_FFI int ngx_http_lua_ffi_decode_base64mime(const unsigned char* src, size_t len,
    unsigned char* dst, size_t* dlen) {
    return lua::decode(src, len, dst, dlen, lua::standard_values, lua::Foreign::skipped);
}

LUA_FFI void ngx_encode_base64url(ngx_str_t* dst, ngx_str_t* src) {
    auto* to = const_cast<unsigned char*>(dst->data);
    dst->len = lua::encode(src->data, src->len, to, lua::url_safe, false);
}

LUA_FFI intptr_t ngx_decode_base64url(ngx_str_t* dst, ngx_str_t* src) {
    auto* to = const_cast<unsigned char*>(dst->data);
    bool good = lua::decode(src->data, src->len, to, &dst->len, lua::url_safe_values,
                            lua::Foreign::refused);
    return good ? lua::ffi_ok : lua::ffi_error;
}
