// Text helpers on slices: case, numbers, hex, escaping primitives. No allocation unless the name
// says so; ASCII only, never the process locale.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/slice.h"

namespace core {

constexpr char lower(char c) { return c >= 'A' && c <= 'Z' ? char(c | 0x20) : c; }
constexpr char upper(char c) { return c >= 'a' && c <= 'z' ? char(c & ~0x20) : c; }
constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
constexpr bool is_alpha(char c) { return lower(c) >= 'a' && lower(c) <= 'z'; }

bool iequals(Slice a, Slice b);           // ASCII case-insensitive equality
bool istarts_with(Slice text, Slice prefix);
size_t ifind(Slice text, Slice needle);   // npos when absent
Slice trim(Slice text);                   // spaces and tabs at both ends
void lower_into(char* to, Slice text);
std::string to_lower(Slice text);
uint32_t ihash(Slice text);               // hash of the lower-cased text

// Decimal digits only, whole slice; nothing when empty, malformed or over `max`.
std::optional<uint64_t> parse_number(Slice text, uint64_t max = INT64_MAX);
std::optional<uint64_t> parse_hex(Slice text, uint64_t max = INT64_MAX);
int hex_value(char c);                    // -1 when not a hex digit

// Prints into `room` (at least 24 bytes) and returns the digits.
Slice format_number(int64_t value, char* room);
Slice format_unsigned(uint64_t value, char* room);
void append_hex(std::string& to, Slice bytes);
void hex_into(char* to, Slice bytes);     // two lower-case digits a byte

// printf into a std::string.
[[gnu::format(printf, 1, 2)]] std::string format(const char* pattern, ...);

// Levenshtein distance, at most `limit` (for "did you mean").
size_t edit_distance(Slice a, Slice b, size_t limit);

}  // namespace core
