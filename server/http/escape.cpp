// Escaping: one table of bits per kind, made at compile time.
#include "server/http/escape.h"

#include <array>
#include <cstring>

#include "core/text.h"

namespace server {

namespace {

using core::Slice;

using Table = std::array<bool, 256>;

constexpr Table table_of(Slice more, bool high_bytes) {
    Table table{};
    for (int c = 0; c <= ' '; ++c) table[size_t(c)] = true;
    for (char c : more) table[uint8_t(c)] = true;
    for (int c = 0x7f; high_bytes && c < 256; ++c) table[size_t(c)] = true;
    return table;
}

constexpr Table component_table() {
    Table table{};
    for (int c = 0; c < 256; ++c) {
        bool kept = core::is_alpha(char(c)) || core::is_digit(char(c)) || c == '-' || c == '.' ||
                    c == '_' || c == '~';
        table[size_t(c)] = !kept;
    }
    return table;
}

constexpr Table tables[] = {
    table_of("\"#%<>?\\^`{|}", true),
    table_of("\"#%&+;<>?\\^`{|}", true),
    component_table(),
    table_of("\"#%'<>\\^`{|}", true),
    table_of("\"'<>\\^`{|~", true),
    table_of("%", false),
    table_of("%", false),
};

}  // namespace

size_t count_escapes(Slice text, Escape kind) {
    const Table& table = tables[size_t(kind)];
    size_t count = 0;
    for (char c : text) count += table[uint8_t(c)];
    return count;
}

char* escape_into(char* to, Slice text, Escape kind) {
    static constexpr char digits[] = "0123456789ABCDEF";
    const Table& table = tables[size_t(kind)];
    for (char c : text) {
        if (!table[uint8_t(c)]) {
            *to++ = c;
            continue;
        }
        *to++ = '%';
        *to++ = digits[uint8_t(c) >> 4];
        *to++ = digits[uint8_t(c) & 15];
    }
    return to;
}

Slice escape(core::Arena& arena, Slice text, Escape kind) {
    size_t count = count_escapes(text, kind);
    if (count == 0) return text;
    char* room = arena.bytes(text.size() + 2 * count);
    return {room, size_t(escape_into(room, text, kind) - room)};
}

char* unescape_into(char* to, Slice text, bool plus) {
    for (size_t i = 0; i < text.size(); ++i) {
        char c = text[i];
        if (c == '%' && i + 2 < text.size()) {
            int high = core::hex_value(text[i + 1]), low = core::hex_value(text[i + 2]);
            if (high >= 0 && low >= 0) {
                *to++ = char(high * 16 + low);
                i += 2;
                continue;
            }
        }
        *to++ = plus && c == '+' ? ' ' : c;
    }
    return to;
}

Slice unescape(core::Arena& arena, Slice text, bool plus) {
    if (text.find('%') == Slice::npos && (!plus || text.find('+') == Slice::npos)) return text;
    char* room = arena.bytes(text.size());
    char* end = unescape_into(room, text, plus);
    arena.give_back(end, room + text.size());
    return {room, size_t(end - room)};
}

Slice escape_html(core::Arena& arena, Slice text) {
    if (text.find_first_of("<>&\"") == Slice::npos) return text;
    core::Appender to(arena, text.size() + 32);
    for (char c : text) {
        switch (c) {
        case '<': to.append("&lt;"); break;
        case '>': to.append("&gt;"); break;
        case '&': to.append("&amp;"); break;
        case '"': to.append("&quot;"); break;
        default: to.append(c);
        }
    }
    return to.take();
}

Slice escape_json(core::Arena& arena, Slice text) {
    bool clean = true;
    for (char c : text) clean = clean && uint8_t(c) >= 0x20 && c != '"' && c != '\\';
    if (clean) return text;
    core::Appender to(arena, text.size() + 32);
    for (char c : text) {
        switch (c) {
        case '"': to.append("\\\""); break;
        case '\\': to.append("\\\\"); break;
        case '\n': to.append("\\n"); break;
        case '\r': to.append("\\r"); break;
        case '\t': to.append("\\t"); break;
        case '\b': to.append("\\b"); break;
        case '\f': to.append("\\f"); break;
        default:
            if (uint8_t(c) >= 0x20) {
                to.append(c);
                break;
            }
            to.append("\\u00");
            to.append("0123456789ABCDEF"[uint8_t(c) >> 4]);
            to.append("0123456789ABCDEF"[uint8_t(c) & 15]);
        }
    }
    return to.take();
}

}  // namespace server
