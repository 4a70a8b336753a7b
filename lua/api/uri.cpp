// URI escaping and query strings: ngx.escape_uri, ngx.unescape_uri, ngx.encode_args,
// ngx.decode_args. Pure functions; nothing here knows a request.
#include "lua/api/uri.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "core/text.h"
#include "lua/api/ffi.h"

namespace lua {
namespace {

// The bytes that one kind of escaping replaces by %XX.
using ByteSet = std::array<bool, 256>;

constexpr ByteSet bytes_of(const char* listed, bool controls, bool high) {
    ByteSet set{};
    for (int c = 0; c < 0x20; c++) set[size_t(c)] = controls;
    set[0x7f] = high;
    for (size_t c = 0x80; c < 0x100; c++) set[c] = high;
    for (; *listed; listed++) set[uint8_t(*listed)] = true;
    return set;
}

constexpr ByteSet all_but(const char* kept) {
    ByteSet set{};
    for (size_t c = 0; c < 256; c++) set[c] = !core::is_alpha(char(c)) && !core::is_digit(char(c));
    for (; *kept; kept++) set[uint8_t(*kept)] = false;
    return set;
}

constexpr ByteSet header_value_set() {
    ByteSet set = bytes_of("", true, false);
    set['\t'] = false;
    set[0x7f] = true;
    return set;
}

constexpr ByteSet argument_set() {
    ByteSet set = bytes_of(" ", true, false);
    set[0x7f] = true;
    return set;
}

// Indexed by Escape.
constexpr ByteSet escape_sets[] = {
    bytes_of(" #%?", true, true),
    bytes_of(" #%+?", true, true),
    all_but("-._~!'()*"),
    bytes_of(" \"#%'", true, true),
    bytes_of(" \"%'", true, true),
    bytes_of(" %", true, false),
    bytes_of(" %", true, false),
    bytes_of(" \"(),/:;<=>?@[]\\{}", true, true),
    header_value_set(),
    argument_set(),
};

const ByteSet& set_of(Escape kind) { return escape_sets[size_t(kind)]; }

}  // namespace

size_t escaped_length(core::Slice text, Escape kind) {
    const ByteSet& set = set_of(kind);
    size_t extra = 0;
    for (char c : text) extra += set[uint8_t(c)];
    return text.size() + 2 * extra;
}

char* escape_into(char* to, core::Slice text, Escape kind) {
    static constexpr char digits[] = "0123456789ABCDEF";
    const ByteSet& set = set_of(kind);
    for (char c : text) {
        if (!set[uint8_t(c)]) {
            *to++ = c;
            continue;
        }
        *to++ = '%';
        *to++ = digits[uint8_t(c) >> 4];
        *to++ = digits[uint8_t(c) & 15];
    }
    return to;
}

core::Slice escape_in(core::Arena& arena, core::Slice text, Escape kind) {
    size_t length = escaped_length(text, kind);
    char* to = arena.bytes(length);
    if (length == text.size()) {
        std::memcpy(to, text.data(), length);
    } else {
        escape_into(to, text, kind);
    }
    return {to, length};
}

size_t unescape_into(char* to, core::Slice text) {
    char* const start = to;
    for (size_t at = 0; at < text.size(); at++) {
        char c = text[at];
        if (c == '+') {
            *to++ = ' ';
            continue;
        }
        if (c == '%' && at + 2 < text.size()) {
            int high = core::hex_value(text[at + 1]), low = core::hex_value(text[at + 2]);
            if (high >= 0 && low >= 0) {
                *to++ = char(high * 16 + low);
                at += 2;
                continue;
            }
        }
        *to++ = c;
    }
    return size_t(to - start);
}

bool ArgumentReader::next(core::Slice& key, core::Slice& value, bool& has_value) {
    if (done_) return false;
    size_t end = text_.find('&', at_);
    if (end == core::Slice::npos) {
        end = text_.size();
        done_ = true;
        if (at_ == end) return false;
    }
    core::Slice pair = text_.substr(at_, end - at_);
    at_ = end + 1;
    size_t equals = pair.find('=');
    has_value = equals != core::Slice::npos;
    key = pair.substr(0, equals);
    value = has_value ? pair.substr(equals + 1) : core::Slice{};
    return true;
}

}  // namespace lua

using lua::Escape;

LUA_FFI size_t ngx_http_lua_ffi_uri_escaped_length(const unsigned char* src, size_t len,
    int type) {
    return lua::escaped_length(lua::slice(src, len), Escape(type));
}

LUA_FFI void ngx_http_lua_ffi_escape_uri(const unsigned char* src, size_t len,
    unsigned char* dst, int type) {
    lua::escape_into(reinterpret_cast<char*>(dst), lua::slice(src, len), Escape(type));
}

LUA_FFI size_t ngx_http_lua_ffi_unescape_uri(const unsigned char* src, size_t len,
    unsigned char* dst) {
    return lua::unescape_into(reinterpret_cast<char*>(dst), lua::slice(src, len));
}

LUA_FFI void ngx_http_lua_ffi_str_replace_char(unsigned char* buf, size_t len,
    const unsigned char find, const unsigned char replace) {
    for (; len; buf++, len--) {
        if (*buf == find) *buf = replace;
    }
}
