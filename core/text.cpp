// ASCII text helpers.
#include "core/text.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

namespace core {

namespace {

uint64_t load_eight(const char* from) {
    uint64_t value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Do eight bytes differ in nothing but the case of letters?
bool same_but_case(uint64_t a, uint64_t b) {
    constexpr uint64_t ones = 0x0101010101010101;
    uint64_t differing = a ^ b;
    if (differing == 0) return true;
    if (differing & ~(ones * 0x20)) return false;
    // Where they differ the byte, in lower case, must be a letter. The sums below set a byte's top
    // bit when it is at least 'a', or above 'z'; with seven bits a byte there is no carry.
    uint64_t lowered = (a | ones * 0x20) & (ones * 0x7f);
    uint64_t at_least_a = lowered + ones * (0x80 - 'a');
    uint64_t above_z = lowered + ones * (0x80 - 'z' - 1);
    uint64_t letters = at_least_a & ~above_z & ~a & (ones * 0x80);
    return ((letters >> 2) & differing) == differing;
}

}  // namespace

bool iequals(Slice a, Slice b) {
    size_t size = a.size();
    if (size != b.size()) return false;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        if (!same_but_case(load_eight(a.data() + i), load_eight(b.data() + i))) return false;
    }
    for (; i < size; ++i) {
        if (a[i] != b[i] && lower(a[i]) != lower(b[i])) return false;
    }
    return true;
}

bool istarts_with(Slice text, Slice prefix) {
    return text.size() >= prefix.size() && iequals(text.substr(0, prefix.size()), prefix);
}

size_t ifind(Slice text, Slice needle) {
    if (needle.size() > text.size()) return Slice::npos;
    if (needle.empty()) return 0;
    char first = lower(needle[0]);
    for (size_t i = 0; i + needle.size() <= text.size(); ++i) {
        if (lower(text[i]) != first) continue;
        if (iequals(text.substr(i, needle.size()), needle)) return i;
    }
    return Slice::npos;
}

Slice trim(Slice text) {
    auto blank = [](char c) { return c == ' ' || c == '\t'; };
    while (!text.empty() && blank(text.front())) text.remove_prefix(1);
    while (!text.empty() && blank(text.back())) text.remove_suffix(1);
    return text;
}

void lower_into(char* to, Slice text) {
    for (char c : text) *to++ = lower(c);
}

std::string to_lower(Slice text) {
    std::string result(text.size(), '\0');
    lower_into(result.data(), text);
    return result;
}

uint32_t ihash(Slice text) {
    uint32_t hash = 2166136261u;  // FNV-1a
    for (char c : text) hash = (hash ^ uint8_t(lower(c))) * 16777619u;
    return hash;
}

std::optional<uint64_t> parse_number(Slice text, uint64_t max) {
    if (text.empty()) return {};
    uint64_t value = 0;
    for (char c : text) {
        if (!is_digit(c)) return {};
        uint64_t digit = uint64_t(c - '0');
        if (__builtin_mul_overflow(value, uint64_t(10), &value)) return {};
        if (__builtin_add_overflow(value, digit, &value) || value > max) return {};
    }
    return value;
}

int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

std::optional<uint64_t> parse_hex(Slice text, uint64_t max) {
    if (text.empty()) return {};
    uint64_t value = 0;
    for (char c : text) {
        int digit = hex_value(c);
        if (digit < 0 || __builtin_mul_overflow(value, uint64_t(16), &value)) return {};
        value += uint64_t(digit);
        if (value > max) return {};
    }
    return value;
}

Slice format_unsigned(uint64_t value, char* room) {
    char* at = room + 24;
    do {
        *--at = char('0' + value % 10);
        value /= 10;
    } while (value);
    return {at, size_t(room + 24 - at)};
}

Slice format_number(int64_t value, char* room) {
    if (value >= 0) return format_unsigned(uint64_t(value), room);
    Slice digits = format_unsigned(0 - uint64_t(value), room);
    char* at = room + (digits.data() - room) - 1;
    *at = '-';
    return {at, digits.size() + 1};
}

void hex_into(char* to, Slice bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    for (char c : bytes) {
        *to++ = digits[uint8_t(c) >> 4];
        *to++ = digits[uint8_t(c) & 15];
    }
}

void append_hex(std::string& to, Slice bytes) {
    size_t at = to.size();
    to.resize(at + bytes.size() * 2);
    hex_into(to.data() + at, bytes);
}

std::string format(const char* pattern, ...) {
    va_list list;
    va_start(list, pattern);
    char* text = nullptr;
    int size = vasprintf(&text, pattern, list);
    va_end(list);
    if (size < 0) return {};
    std::string result(text, size_t(size));
    free(text);
    return result;
}

size_t edit_distance(Slice a, Slice b, size_t limit) {
    if (a.size() > b.size() + limit || b.size() > a.size() + limit) return limit + 1;
    std::vector<size_t> row(b.size() + 1);
    for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= a.size(); ++i) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.size(); ++j) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
        }
    }
    return std::min(row[b.size()], limit + 1);
}

}  // namespace core
