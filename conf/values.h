// The usual value types of directives and how their text is read. A directive whose member is a
// Setting<T> of one of these needs no code of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "conf/directive.h"

namespace conf {

struct Bytes { int64_t count = 0; operator int64_t() const { return count; } };      // "8k", "1m"
struct Offset { int64_t count = 0; operator int64_t() const { return count; } };     // also "1g"
struct Milliseconds { int64_t count = 0; operator int64_t() const { return count; } };  // "10s", "100ms", "1d 2h"
struct Seconds { int64_t count = 0; operator int64_t() const { return count; } };
struct BufferSizes { int64_t count = 0; int64_t bytes = 0; };                        // "4 8k"

std::optional<int64_t> parse_size(core::Slice text);        // k, m
std::optional<int64_t> parse_offset(core::Slice text);      // k, m, g
std::optional<int64_t> parse_time_ms(core::Slice text);     // ms s m h d w M y, summed
std::optional<int64_t> parse_time_s(core::Slice text);      // the same without ms

Result<void> parse_setting(bool& to, const Line& line);                  // on | off
Result<void> parse_setting(int64_t& to, const Line& line);
Result<void> parse_setting(int& to, const Line& line);
Result<void> parse_setting(std::string& to, const Line& line);
Result<void> parse_setting(std::vector<std::string>& to, const Line& line);   // all arguments
Result<void> parse_setting(Bytes& to, const Line& line);
Result<void> parse_setting(Offset& to, const Line& line);
Result<void> parse_setting(Milliseconds& to, const Line& line);
Result<void> parse_setting(Seconds& to, const Line& line);
Result<void> parse_setting(BufferSizes& to, const Line& line);

// An enumeration read from words. Beside the enum E declare
//   constexpr Choice<E> choices(E) …  as an array of {word, value}, found by argument lookup.
template <class E>
struct Choice { const char* word; E value; };

template <class E>
    requires std::is_enum_v<E>
Result<void> parse_setting(E& to, const Line& line) {
    for (const auto& choice : choices(E{})) {
        if (line.arg(0) == choice.word) {
            to = choice.value;
            return {};
        }
    }
    return invalid_value(line, line.arg(0));
}

}  // namespace conf
