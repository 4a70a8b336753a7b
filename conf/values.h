// The usual value types of directives and how their text is read. A directive whose member is a
// Setting<T> of one of these needs no code of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "conf/directive.h"

namespace conf {

struct Bytes { int64_t count = 0; operator int64_t() const { return count; } };     // "8k", "1m"
struct Offset { int64_t count = 0; operator int64_t() const { return count; } };    // also "1g"
struct Milliseconds {                                               // "10s", "100ms", "1d 2h"
    int64_t count = 0;
    operator int64_t() const { return count; }
};
struct Seconds { int64_t count = 0; operator int64_t() const { return count; } };
struct BufferSizes { int64_t count = 0; int64_t bytes = 0; };                       // "4 8k"

// A folder for temporary files, with the digits of each level of folders below it.
struct TempPath {
    std::string path;
    int levels[3] = {0, 0, 0};
};

// Directives that may be repeated: one text each, or a key and a value each.
struct List {
    static constexpr bool repeatable = true;
    std::vector<std::string> items;
};
struct Pairs {
    static constexpr bool repeatable = true;
    std::vector<std::pair<std::string, std::string>> items;
};

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
Result<void> parse_setting(TempPath& to, const Line& line);
Result<void> parse_setting(List& to, const Line& line);
Result<void> parse_setting(Pairs& to, const Line& line);

// An enumeration read from words, in any case. Beside the enum E declare
//   constexpr Choice<E> choices(E) …  as an array of {word, value}, found by argument lookup:
//   constexpr auto choices(E) { return std::to_array<Choice<E>>({{"off", E::off}, …}); }
template <class E>
struct Choice { const char* word; E value; };

// Several words of an enumeration at once; E's values are single bits.
template <class E>
struct Choices {
    uint32_t bits = 0;
    constexpr Choices() = default;
    constexpr explicit Choices(uint32_t b) : bits(b) {}
    bool has(E value) const { return bits & uint32_t(value); }
};

bool is_word(core::Slice text, const char* word);            // equal but for case
void warn_duplicate_value(const Line& line, core::Slice value);

template <class E>
bool parse_choice(E& to, core::Slice text) {
    for (const auto& choice : choices(E{})) {
        if (is_word(text, choice.word)) {
            to = choice.value;
            return true;
        }
    }
    return false;
}

template <class E>
    requires std::is_enum_v<E>
Result<void> parse_setting(E& to, const Line& line) {
    if (parse_choice(to, line.arg(0))) return {};
    return invalid_value(line.arg(0));
}

template <class E>
Result<void> parse_setting(Choices<E>& to, const Line& line) {
    to.bits = 0;
    for (const auto& word : line.node.args) {
        E value{};
        if (!parse_choice(value, word)) return invalid_value(word);
        if (to.has(value)) warn_duplicate_value(line, word);
        to.bits |= uint32_t(value);
    }
    return {};
}

// For directives with bounds: `value must be between A and B`, or `value must be equal to or
// greater than A` when there is no upper one.
Result<void> check_bounds(int64_t value, int64_t least, int64_t most = INT64_MAX);

// A number with bounds: field_within<&Conf::level, 1, 9>.
template <class Class, auto member, int64_t least, int64_t most>
Result<void> apply_within(void* conf, const Line& line) {
    auto applied = apply_field<Class, member>(conf, line);
    if (!applied) return applied;
    return check_bounds((static_cast<Class*>(conf)->*member).value, least, most);
}
template <auto member, int64_t least, int64_t most = INT64_MAX>
inline constexpr Directive::FieldOps field_within{
    apply_within<typename detail::MemberOf<decltype(member)>::Class, member, least, most>,
    inherit_field<typename detail::MemberOf<decltype(member)>::Class, member>};

}  // namespace conf
