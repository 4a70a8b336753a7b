// Escaping by tables. Called by modules that print URIs, file names and log values.
#include "server/http/escape.h"

#include <array>
#include <cstdio>
#include <cstring>

namespace server {

namespace {

using Set = std::array<bool, 256>;

constexpr Set path_set() {
    Set set{};
    for (int c = 0; c < 256; ++c) set[size_t(c)] = c <= 0x20 || c >= 0x7f;
    for (char c : {'"', '#', '%', '<', '>', '?', '\\', '^', '`', '{', '|', '}'}) {
        set[uint8_t(c)] = true;
    }
    return set;
}

constexpr Set component_set() {
    Set set{};
    for (int c = 0; c < 256; ++c) {
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        set[size_t(c)] = !plain && c != '-' && c != '.' && c != '_' && c != '~';
    }
    return set;
}

constexpr Set path_escapes = path_set();
constexpr Set component_escapes = component_set();

// Bytes that one byte turns into; 1 for those that stay.
template <class Width>
core::Slice widen(core::Arena& arena, core::Slice text, Width width) {
    size_t size = 0;
    for (char c : text) size += width(c);
    if (size == text.size()) return text;
    return {arena.bytes(size), size};
}

}  // namespace

core::Slice escape_uri(core::Arena& arena, core::Slice text, UriEscape how) {
    const Set& set = how == UriEscape::path ? path_escapes : component_escapes;
    core::Slice room = widen(arena, text, [&](char c) { return set[uint8_t(c)] ? 3 : 1; });
    if (room.data() == text.data()) return text;
    constexpr char digits[] = "0123456789ABCDEF";
    char* to = const_cast<char*>(room.data());
    for (char c : text) {
        if (!set[uint8_t(c)]) {
            *to++ = c;
            continue;
        }
        *to++ = '%';
        *to++ = digits[uint8_t(c) >> 4];
        *to++ = digits[uint8_t(c) & 15];
    }
    return room;
}

core::Slice escape_html(core::Arena& arena, core::Slice text) {
    auto entity = [](char c) -> core::Slice {
        switch (c) {
        case '&': return "&amp;";
        case '<': return "&lt;";
        case '>': return "&gt;";
        case '"': return "&quot;";
        default: return {};
        }
    };
    core::Slice room = widen(arena, text, [&](char c) {
        core::Slice by = entity(c);
        return by.empty() ? size_t(1) : by.size();
    });
    if (room.data() == text.data()) return text;
    char* to = const_cast<char*>(room.data());
    for (char c : text) {
        core::Slice by = entity(c);
        if (by.empty()) {
            *to++ = c;
        } else {
            to = std::copy(by.begin(), by.end(), to);
        }
    }
    return room;
}

core::Slice escape_json(core::Arena& arena, core::Slice text) {
    auto letter = [](char c) -> char {
        switch (c) {
        case '"': case '\\': return c;
        case '\n': return 'n';
        case '\r': return 'r';
        case '\t': return 't';
        case '\b': return 'b';
        case '\f': return 'f';
        default: return 0;
        }
    };
    core::Slice room = widen(arena, text, [&](char c) -> size_t {
        return letter(c) ? 2 : uint8_t(c) < 0x20 ? 6 : 1;
    });
    if (room.data() == text.data()) return text;
    constexpr char digits[] = "0123456789ABCDEF";
    char* to = const_cast<char*>(room.data());
    for (char c : text) {
        if (char by = letter(c)) {
            *to++ = '\\';
            *to++ = by;
        } else if (uint8_t(c) < 0x20) {
            std::memcpy(to, "\\u00", 4);
            to[4] = digits[uint8_t(c) >> 4];
            to[5] = digits[uint8_t(c) & 15];
            to += 6;
        } else {
            *to++ = c;
        }
    }
    return room;
}

}  // namespace server
