// Reads the usual value types. The rules and the messages are nginx's (ngx_parse.c and the slot
// functions of ngx_conf_file.c).
#include "conf/values.h"

#include <climits>
#include <iterator>

#include "conf/binder.h"
#include "core/text.h"

namespace conf {

namespace {

// Names of temporary files are numbers of ten digits; the levels take theirs from the end.
constexpr int64_t temp_level_digits_max = 10;

std::optional<int64_t> scaled(core::Slice digits, int64_t scale) {
    auto count = core::parse_number(digits, uint64_t(INT64_MAX / scale));
    if (!count) return {};
    return int64_t(*count) * scale;
}

// 0 when the text has no unit.
int64_t size_unit(core::Slice text, bool giga_too) {
    switch (text.empty() ? '\0' : core::lower(text.back())) {
    case 'k': return 1 << 10;
    case 'm': return 1 << 20;
    case 'g': return giga_too ? 1 << 30 : 0;
    default: return 0;
    }
}

std::optional<int64_t> parse_scaled(core::Slice text, bool giga_too) {
    int64_t unit = size_unit(text, giga_too);
    if (unit) text.remove_suffix(1);
    return scaled(text, unit ? unit : 1);
}

// The units of times in the order in which they must come, in milliseconds.
struct TimeUnit {
    char letter;
    int64_t ms;
};
constexpr TimeUnit time_units[] = {
    {'y', 365 * 86'400'000LL}, {'M', 30 * 86'400'000LL}, {'w', 7 * 86'400'000LL},
    {'d', 86'400'000},         {'h', 3'600'000},         {'m', 60'000},
    {'s', 1'000},              {'_', 1},
};
constexpr int unit_M = 1, unit_s = 6, unit_ms = 7, unit_none = 8;

// Consumes a unit from the front of `text`; -1 when there is none that may stand after `previous`.
// A blank is the unit "seconds" and must be the last. Years and months need whole seconds: nginx
// reads neither in directives that count milliseconds.
int take_unit(core::Slice& text, int previous, bool seconds_only) {
    char c = text.front();
    text.remove_prefix(1);
    if (c == ' ') return previous >= unit_s ? -1 : unit_none;
    int unit = -1;
    for (int i = 0; i < unit_ms; ++i) {
        if (time_units[i].letter == c) unit = i;
    }
    if (unit < 0) return -1;
    if (c == 'm' && !text.empty() && text.front() == 's') {
        text.remove_prefix(1);
        unit = unit_ms;
    }
    if (unit <= previous) return -1;
    if (seconds_only ? unit == unit_ms : unit <= unit_M) return -1;
    return unit;
}

// In milliseconds or in seconds. A number without unit counts seconds.
std::optional<int64_t> parse_time(core::Slice text, bool seconds_only) {
    int64_t total = 0;
    int previous = -1;
    bool any_digit = false;
    while (!text.empty()) {
        size_t digits = 0;
        while (digits < text.size() && core::is_digit(text[digits])) ++digits;
        uint64_t value = 0;
        if (digits) {
            auto number = core::parse_number(text.substr(0, digits));
            if (!number) return {};
            value = *number;
            any_digit = true;
            text.remove_prefix(digits);
        }
        int64_t scale = seconds_only ? 1 : 1000;
        if (!text.empty()) {
            int unit = take_unit(text, previous, seconds_only);
            if (unit < 0) return {};
            previous = unit;
            if (unit < unit_none) scale = time_units[unit].ms / (seconds_only ? 1000 : 1);
            while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
        }
        if (value > uint64_t(INT64_MAX / scale)) return {};
        if (total > INT64_MAX - int64_t(value) * scale) return {};
        total += int64_t(value) * scale;
    }
    if (!any_digit) return {};
    return total;
}

template <class T>
Result<void> store(T& to, const std::optional<int64_t>& value, const Line& line) {
    if (!value) return directive_error(line, "invalid value");
    to.count = *value;
    return {};
}

}  // namespace

std::optional<int64_t> parse_size(core::Slice text) { return parse_scaled(text, false); }
std::optional<int64_t> parse_offset(core::Slice text) { return parse_scaled(text, true); }
std::optional<int64_t> parse_time_ms(core::Slice text) { return parse_time(text, false); }
std::optional<int64_t> parse_time_s(core::Slice text) { return parse_time(text, true); }

bool is_word(core::Slice text, const char* word) { return core::iequals(text, word); }

Result<void> parse_setting(bool& to, const Line& line) {
    core::Slice text = line.arg(0);
    bool on = is_word(text, "on");
    if (!on && !is_word(text, "off")) {
        return Error{invalid_value(line, text).what + ", it must be \"on\" or \"off\""};
    }
    to = on;
    return {};
}

Result<void> parse_setting(int64_t& to, const Line& line) {
    auto value = core::parse_number(line.arg(0));
    if (!value) return directive_error(line, "invalid number");
    to = int64_t(*value);
    return {};
}

Result<void> parse_setting(int& to, const Line& line) {
    auto value = core::parse_number(line.arg(0), INT_MAX);
    if (!value) return directive_error(line, "invalid number");
    to = int(*value);
    return {};
}

Result<void> parse_setting(std::string& to, const Line& line) {
    to = line.arg(0);
    return {};
}

Result<void> parse_setting(std::vector<std::string>& to, const Line& line) {
    to = line.node.args;
    return {};
}

Result<void> parse_setting(Bytes& to, const Line& line) {
    return store(to, parse_size(line.arg(0)), line);
}

Result<void> parse_setting(Offset& to, const Line& line) {
    return store(to, parse_offset(line.arg(0)), line);
}

Result<void> parse_setting(Milliseconds& to, const Line& line) {
    return store(to, parse_time_ms(line.arg(0)), line);
}

Result<void> parse_setting(Seconds& to, const Line& line) {
    return store(to, parse_time_s(line.arg(0)), line);
}

Result<void> parse_setting(BufferSizes& to, const Line& line) {
    if (line.count() < 2) return directive_error(line, "invalid value");
    auto count = core::parse_number(line.arg(0), INT_MAX);
    auto bytes = parse_size(line.arg(1));
    if (!count || !*count || !bytes || !*bytes) return directive_error(line, "invalid value");
    to = {int64_t(*count), *bytes};
    return {};
}

Result<void> parse_setting(TempPath& to, const Line& line) {
    to.path = line.arg(0);
    while (to.path.size() > 1 && to.path.back() == '/') to.path.pop_back();
    int64_t digits = 0;
    for (size_t i = 1; i < line.count() && i <= std::size(to.levels); ++i) {
        auto level = core::parse_number(line.arg(i), temp_level_digits_max);
        if (!level || *level == 0) return directive_error(line, "invalid value");
        to.levels[i - 1] = int(*level);
        digits += int64_t(*level);
    }
    if (digits > temp_level_digits_max) return directive_error(line, "invalid value");
    return {};
}

Result<void> parse_setting(List& to, const Line& line) {
    to.items.emplace_back(line.arg(0));
    return {};
}

Result<void> parse_setting(Pairs& to, const Line& line) {
    if (line.count() < 2) return directive_error(line, "invalid value");
    to.items.emplace_back(line.arg(0), line.arg(1));
    return {};
}

Result<void> check_bounds(int64_t value, int64_t least, int64_t most) {
    if (value >= least && value <= most) return {};
    if (most == INT64_MAX) {
        return Error{"value must be equal to or greater than " + std::to_string(least)};
    }
    return Error{"value must be between " + std::to_string(least) + " and " +
                 std::to_string(most)};
}

Error invalid_value(const Line& line, core::Slice value) {
    return Error{"invalid value \"" + std::string(value) + "\" in \"" + line.node.name +
                 "\" directive"};
}

Error invalid_value(core::Slice value) {
    return Error{"invalid value \"" + std::string(value) + "\""};
}

Error invalid_parameter(core::Slice parameter) {
    return Error{"invalid parameter \"" + std::string(parameter) + "\""};
}

Error directive_error(const Line& line, core::Slice text) {
    return Error{"\"" + line.node.name + "\" directive " + std::string(text)};
}

Error detail::duplicate() { return Error{"is duplicate"}; }

void warn_duplicate_value(const Line& line, core::Slice value) {
    line.binder.warn(line.node.place, "duplicate value \"" + std::string(value) + "\"");
}

}  // namespace conf
