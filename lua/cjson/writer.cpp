// Strings and numbers as JSON; see writer.h.
#include "lua/cjson/writer.h"

#include <charconv>
#include <cstdint>
#include <cstdlib>

#include "core/arena.h"

namespace lua::cjson {
namespace {

constexpr size_t buffer_bytes_first = 1024;
constexpr size_t number_bytes_max = 32;
constexpr size_t escape_bytes_max = 6;         // \u001f
constexpr size_t overlap_bytes = 16;           // written at once behind a short string

thread_local char* spare_data = nullptr;
thread_local size_t spare_capacity = 0;

// The letter behind the backslash; 'u': as \u00XX; 0: as it is.
struct EscapeTable {
    char letter[256] = {};
    constexpr EscapeTable() {
        for (int c = 0; c < 0x20; c++) letter[c] = 'u';
        letter[0x7f] = 'u';
        letter[uint8_t('\b')] = 'b';
        letter[uint8_t('\t')] = 't';
        letter[uint8_t('\n')] = 'n';
        letter[uint8_t('\f')] = 'f';
        letter[uint8_t('\r')] = 'r';
        letter[uint8_t('"')] = '"';
        letter[uint8_t('\\')] = '\\';
        letter[uint8_t('/')] = '/';
    }
};
constexpr EscapeTable escapes;

constexpr uint64_t each_byte(uint8_t c) { return 0x0101010101010101u * c; }

// Eight bytes at once: is none of them to be escaped? (A byte next to one that is may be taken for
// one, which does not matter.)
[[gnu::always_inline]] inline bool is_plain(uint64_t word) {
    auto zero_byte = [](uint64_t v) { return (v - each_byte(1)) & ~v; };
    uint64_t control = (word - each_byte(0x20)) & ~word;
    uint64_t found = control | zero_byte(word ^ each_byte('"')) |
                     zero_byte(word ^ each_byte('\\')) | zero_byte(word ^ each_byte('/')) |
                     zero_byte(word ^ each_byte(0x7f));
    return (found & each_byte(0x80)) == 0;
}

template <class Word>
Word load(const char* from) {
    Word word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

// Up to seven bytes in a word, each at least once, nothing else.
uint64_t short_word(const char* from, size_t size) {
    if (size >= 4) return load<uint32_t>(from) | uint64_t(load<uint32_t>(from + size - 4)) << 32;
    uint64_t word = each_byte('a');
    if (size) {
        uint64_t last = uint8_t(from[size - 1]);
        word = (word & ~uint64_t(0xffffff)) | last << 16 |
               uint64_t(uint8_t(from[size / 2])) << 8 | uint8_t(from[0]);
    }
    return word;
}

bool is_plain(const char* from, size_t size) {
    if (size < 8) return is_plain(short_word(from, size));
    for (size_t at = 0; at + 8 <= size; at += 8) {
        if (!is_plain(load<uint64_t>(from + at))) return false;
    }
    return is_plain(load<uint64_t>(from + size - 8));
}

// Copies with few branches; may write up to overlap_bytes, no matter how few there are.
void copy(char* to, const char* from, size_t size) {
    if (size > overlap_bytes) {
        std::memcpy(to, from, size);
    } else if (size >= 8) {
        uint64_t last = load<uint64_t>(from + size - 8);
        std::memcpy(to, from, 8);
        std::memcpy(to + size - 8, &last, 8);
    } else if (size >= 4) {
        uint32_t last = load<uint32_t>(from + size - 4);
        std::memcpy(to, from, 4);
        std::memcpy(to + size - 4, &last, 4);
    } else {
        for (size_t n = 0; n < size; n++) to[n] = from[n];
    }
}

char* write_escaped(char* to, core::Slice value, bool escape_slash) {
    static constexpr char digits[] = "0123456789abcdef";
    for (char c : value) {
        char letter = escapes.letter[uint8_t(c)];
        if (!letter || (letter == '/' && !escape_slash)) {
            *to++ = c;
            continue;
        }
        *to++ = '\\';
        *to++ = letter;
        if (letter == 'u') {
            *to++ = '0';
            *to++ = '0';
            *to++ = digits[uint8_t(c) >> 4];
            *to++ = digits[uint8_t(c) & 15];
        }
    }
    return to;
}

// A number that is at most three decimals long and short enough for %.14g to show it in full.
// 0: it is not.
size_t write_decimals(char* to, double number) {
    constexpr double scale = 1000, short_max = 1e9;
    double scaled = number * scale;
    if (!(std::fabs(number) < short_max) || scaled != std::floor(scaled) ||
        scaled / scale != number) return 0;
    auto value = int64_t(scaled);
    char* at = to;
    if (value < 0) {
        *at++ = '-';
        value = -value;
    }
    at = std::to_chars(at, at + number_bytes_max, value / 1000).ptr;
    auto rest = int(value % 1000);
    *at++ = '.';
    *at++ = char('0' + rest / 100);
    *at++ = char('0' + rest / 10 % 10);
    *at++ = char('0' + rest % 10);
    while (at[-1] == '0') --at;
    return size_t(at - to);
}

}  // namespace

Text::Text(bool keep) : data_(spare_data), capacity_(spare_capacity), keep_(keep) {
    spare_data = nullptr;
    spare_capacity = 0;
}

Text::~Text() {
    if (keep_ && !spare_data) {
        spare_data = data_;
        spare_capacity = capacity_;
    } else {
        std::free(data_);
    }
}

void Text::grow(size_t bytes) {
    size_t wanted = capacity_ ? 2 * capacity_ : buffer_bytes_first;
    while (wanted - size_ < bytes) wanted *= 2;
    data_ = static_cast<char*>(std::realloc(data_, wanted));
    if (!data_) core::out_of_memory(wanted);
    capacity_ = wanted;
}

void write_string(Text& text, core::Slice value, bool escape_slash) {
    if (is_plain(value.data(), value.size())) {
        char* to = text.room(value.size() + overlap_bytes + 2);
        *to++ = '"';
        copy(to, value.data(), value.size());
        to[value.size()] = '"';
        return text.advance(value.size() + 2);
    }
    char* const start = text.room(value.size() * escape_bytes_max + 2);
    char* to = start;
    *to++ = '"';
    to = write_escaped(to, value, escape_slash);
    *to++ = '"';
    text.advance(size_t(to - start));
}

void write_number(Text& text, double number, int precision) {
    constexpr double plain_max = 1e14;         // whole numbers below are the same in %.14g
    char* to = text.room(number_bytes_max);
    char* end = to + number_bytes_max;
    bool plain = std::fabs(number) < plain_max && precision >= 14;
    if (plain) {
        auto whole = int64_t(number);
        if (double(whole) == number && (whole || !std::signbit(number)))
            return text.advance(size_t(std::to_chars(to, end, whole).ptr - to));
        if (whole || number != 0) {
            if (size_t size = write_decimals(to, number)) return text.advance(size);
        }
    }
    auto done = std::to_chars(to, end, number, std::chars_format::general, precision);
    text.advance(size_t(done.ptr - to));
}

}  // namespace lua::cjson
