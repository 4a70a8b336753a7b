// Quoting and encoding for set_misc. Results are those of OpenResty's module of that name.
#include "server/http/modules/set_misc_text.h"

#include <array>
#include <cstdint>

#include "core/text.h"

namespace server {

namespace {

using core::Appender;
using core::Slice;

char sql_escape(char c) {
    switch (c) {
    case '\0': return '0';
    case '\b': return 'b';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    case '\x1a': return 'Z';
    case '\\': case '\'': case '"': case '$': return c;
    default: return 0;
    }
}

void append_sql(Appender& to, Slice text) {
    to.append('\'');
    for (char c : text) {
        char escaped = sql_escape(c);
        if (escaped) to.append('\\');
        to.append(escaped ? escaped : c);
    }
    to.append('\'');
}

// Bytes that the character starting with `lead` takes, as PostgreSQL counts them.
size_t utf8_bytes(uint8_t lead) {
    if (lead < 0x80) return 1;
    if ((lead & 0xe0) == 0xc0) return 2;
    if ((lead & 0xf0) == 0xe0) return 3;
    return (lead & 0xf8) == 0xf0 ? 4 : 1;
}

bool second_byte_fits(uint8_t lead, uint8_t second) {
    uint8_t least = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    return second >= least && second <= most;
}

bool is_utf8(Slice text) {
    for (size_t i = 0; i < text.size();) {
        uint8_t lead = uint8_t(text[i]);
        size_t bytes = utf8_bytes(lead);
        if (text.size() - i < bytes) return false;
        if (bytes == 1 && lead >= 0x80) return false;
        if (bytes > 1 && (lead < 0xc2 || lead > 0xf4)) return false;
        if (bytes > 1 && !second_byte_fits(lead, uint8_t(text[i + 1]))) return false;
        for (size_t k = 2; k < bytes; ++k) {
            if ((uint8_t(text[i + k]) & 0xc0) != 0x80) return false;
        }
        i += bytes;
    }
    return true;
}

}  // namespace

Slice quote_sql(core::Arena& arena, Slice text) {
    if (text.empty()) return "''";
    Appender to(arena, text.size() + 16);
    append_sql(to, text);
    return to.take();
}

Slice quote_pgsql(core::Arena& arena, Slice text) {
    if (text.empty()) return "''";
    Appender to(arena, text.size() + 16);
    to.append('E');
    append_sql(to, text);
    Slice quoted = to.take();
    if (is_utf8(quoted)) return quoted;
    Appender octal(arena, quoted.size() * 2);
    for (char c : quoted) {
        uint8_t byte = uint8_t(c);
        if (byte < 0x80) {
            octal.append(c);
            continue;
        }
        octal.append("\\\\");
        octal.append(char('0' + (byte >> 6)));
        octal.append(char('0' + (byte >> 3 & 7)));
        octal.append(char('0' + (byte & 7)));
    }
    return octal.take();
}

Slice quote_json(core::Arena& arena, Slice text) {
    if (text.empty()) return "null";
    static constexpr char digits[] = "0123456789abcdef";
    Appender to(arena, text.size() + 16);
    to.append('"');
    for (char c : text) {
        switch (c) {
        case '\r': to.append("\\r"); break;
        case '\n': to.append("\\n"); break;
        case '\f': to.append("\\f"); break;
        case '\b': to.append("\\b"); break;
        case '\t': to.append("\\t"); break;
        case '\\': to.append("\\\\"); break;
        case '"': to.append("\\\""); break;
        default:
            if (uint8_t(c) >= 0x20) {
                to.append(c);
                break;
            }
            to.append("\\u00");
            to.append(digits[uint8_t(c) >> 4]);
            to.append(digits[uint8_t(c) & 15]);
        }
    }
    to.append('"');
    return to.take();
}

Slice encode_base32(core::Arena& arena, Slice bytes, Slice alphabet, bool padding) {
    Appender to(arena, (bytes.size() + 4) / 5 * 8);
    uint32_t bits = 0;
    int have = 0;
    for (char c : bytes) {
        bits = (bits << 8 | uint8_t(c)) & 0xffff;
        for (have += 8; have >= 5; have -= 5) to.append(alphabet[bits >> (have - 5) & 31]);
    }
    if (have > 0) to.append(alphabet[bits << (5 - have) & 31]);
    while (padding && to.size() % 8 != 0) to.append('=');
    return to.take();
}

Slice decode_base32(core::Arena& arena, Slice text, Slice alphabet) {
    std::array<int8_t, 256> values;
    values.fill(-1);
    for (size_t i = 0; i < alphabet.size(); ++i) values[uint8_t(alphabet[i])] = int8_t(i);
    text = text.substr(0, text.find('='));
    size_t odd = text.size() % 8;
    if (odd == 1 || odd == 3 || odd == 6) return {};
    char* room = arena.bytes(text.size() * 5 / 8 + 1);
    char* to = room;
    uint32_t bits = 0;
    int have = 0;
    for (char c : text) {
        int value = values[uint8_t(c)];
        if (value < 0) return {};
        bits = (bits << 5 | uint32_t(value)) & 0xffff;
        have += 5;
        if (have < 8) continue;
        have -= 8;
        *to++ = char(bits >> have & 255);
    }
    return {room, size_t(to - room)};
}

Slice encode_hex(core::Arena& arena, Slice bytes) {
    char* room = arena.bytes(bytes.size() * 2);
    core::hex_into(room, bytes);
    return {room, bytes.size() * 2};
}

Slice decode_hex(core::Arena& arena, Slice text) {
    if (text.size() % 2) return {};
    char* room = arena.bytes(text.size() / 2 + 1);
    for (size_t i = 0; i < text.size(); i += 2) {
        int high = core::hex_value(text[i]), low = core::hex_value(text[i + 1]);
        if (high < 0 || low < 0) return {};
        room[i / 2] = char(high * 16 + low);
    }
    return {room, text.size() / 2};
}

namespace {

constexpr std::array<bool, 256> loose = [] {
    std::array<bool, 256> table{};
    for (int c = 0; c < 256; ++c) table[size_t(c)] = c <= ' ' || c >= 0x7f;
    for (char c : Slice("\"#%&+/:;<=>?[\\]^{}")) table[uint8_t(c)] = true;
    return table;
}();

}  // namespace

Slice escape_component_loosely(core::Arena& arena, Slice text) {
    static constexpr char digits[] = "0123456789ABCDEF";
    Appender to(arena, text.size() + 32);
    for (char c : text) {
        if (!loose[uint8_t(c)]) {
            to.append(c);
            continue;
        }
        to.append('%');
        to.append(digits[uint8_t(c) >> 4]);
        to.append(digits[uint8_t(c) & 15]);
    }
    return to.take();
}

}  // namespace server
