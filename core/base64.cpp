// Base64 by table; the decoding tables are made at compile time.
#include "core/base64.h"

#include <array>
#include <cstdint>

namespace core {

namespace {

constexpr char standard[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr char url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr uint8_t none = 255;

constexpr std::array<uint8_t, 256> values_of(const char* alphabet) {
    std::array<uint8_t, 256> values{};
    for (auto& value : values) value = none;
    for (uint8_t i = 0; i < 64; ++i) values[uint8_t(alphabet[i])] = i;
    return values;
}
constexpr auto standard_values = values_of(standard);
constexpr auto url_values = values_of(url);

}  // namespace

char* encode_base64_into(char* to, Slice bytes, bool padding, bool url_safe) {
    const char* alphabet = url_safe ? url : standard;
    size_t i = 0;
    for (; i + 3 <= bytes.size(); i += 3) {
        uint32_t group = uint32_t(uint8_t(bytes[i])) << 16 |
                         uint32_t(uint8_t(bytes[i + 1])) << 8 | uint8_t(bytes[i + 2]);
        *to++ = alphabet[group >> 18];
        *to++ = alphabet[group >> 12 & 63];
        *to++ = alphabet[group >> 6 & 63];
        *to++ = alphabet[group & 63];
    }
    size_t left = bytes.size() - i;
    if (left == 0) return to;
    uint32_t group = uint32_t(uint8_t(bytes[i])) << 16;
    if (left == 2) group |= uint32_t(uint8_t(bytes[i + 1])) << 8;
    *to++ = alphabet[group >> 18];
    *to++ = alphabet[group >> 12 & 63];
    if (left == 2) *to++ = alphabet[group >> 6 & 63];
    for (size_t pad = left; padding && pad < 3; ++pad) *to++ = '=';
    return to;
}

char* decode_base64_into(char* to, Slice text, bool url_safe) {
    const auto& values = url_safe ? url_values : standard_values;
    size_t count = 0;
    while (count < text.size() && text[count] != '=') {
        if (values[uint8_t(text[count])] == none) return nullptr;
        ++count;
    }
    if (count % 4 == 1) return nullptr;
    uint32_t bits = 0;
    int have = 0;
    for (size_t i = 0; i < count; ++i) {
        bits = bits << 6 | values[uint8_t(text[i])];
        have += 6;
        if (have >= 8) {
            have -= 8;
            *to++ = char(bits >> have & 255);
        }
    }
    return to;
}

Slice encode_base64(Arena& arena, Slice bytes) {
    char* room = arena.bytes(base64_encoded_bytes(bytes.size()));
    return {room, size_t(encode_base64_into(room, bytes) - room)};
}

Slice decode_base64(Arena& arena, Slice text) {
    char* room = arena.bytes(base64_decoded_bytes_max(text.size()) + 1);
    char* end = decode_base64_into(room, text);
    return end ? Slice(room, size_t(end - room)) : Slice{};
}

}  // namespace core
