// Compiling log formats and printing lines by them. A value that is not found is "-" ("" with
// escape=json or none), as in nginx.
#include "server/http/log_format.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/clock.h"
#include "core/text.h"
#include "server/config.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server {

namespace {

enum Class : uint8_t { plain = 0, hex = 1, non_ascii = 2 };

constexpr std::array<uint8_t, 256> make_classes() {
    std::array<uint8_t, 256> classes{};
    for (size_t c = 0; c < 256; ++c) {
        if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f) classes[c] = hex;
        if (c > 0x7f) classes[c] = non_ascii;
    }
    return classes;
}
constexpr auto classes = make_classes();

// Of the eight bytes in `word`, does any need escaping (everything from DEL on taken for such)?
bool any_special(uint64_t word) {
    constexpr uint64_t ones = 0x0101010101010101, highs = 0x80 * ones;
    auto has_zero = [](uint64_t v) { return (v - ones) & ~v & highs; };
    uint64_t controls = (word - 0x20 * ones) & ~word;
    return (((word | controls) & highs) | has_zero(word ^ ('"' * ones)) |
            has_zero(word ^ ('\\' * ones)) | has_zero(word ^ (0x7f * ones))) != 0;
}

// Nearly every value is plain: that is found out eight bytes at a time.
bool is_plain(core::Slice value) {
    constexpr size_t step = sizeof(uint64_t);
    auto word_at = [&](size_t at) {
        uint64_t word;
        std::memcpy(&word, value.data() + at, step);
        return word;
    };
    if (value.size() < step) {
        for (char c : value) {
            if (classes[uint8_t(c)] != plain) return false;
        }
        return true;
    }
    for (size_t at = 0; at + step <= value.size(); at += step) {
        if (any_special(word_at(at))) return false;
    }
    return !any_special(word_at(value.size() - step));
}

void append_hex_escaped(LineBuffer& to, core::Slice value, bool plain_non_ascii) {
    if (is_plain(value)) return to.append(value);
    constexpr char digits[] = "0123456789ABCDEF";
    char* at = to.reserve(value.size() * 4);
    char* start = at;
    for (char c : value) {
        uint8_t kind = classes[uint8_t(c)];
        if (kind == plain || (kind == non_ascii && plain_non_ascii)) {
            *at++ = c;
            continue;
        }
        *at++ = '\\';
        *at++ = 'x';
        *at++ = digits[uint8_t(c) >> 4];
        *at++ = digits[uint8_t(c) & 15];
    }
    to.advance(size_t(at - start));
}

void append_json(LineBuffer& to, core::Slice value) {
    constexpr char digits[] = "0123456789ABCDEF";
    constexpr core::Slice short_forms = "\"\"\\\\\nn\rr\tt\bb\ff";
    char* at = to.reserve(value.size() * 6);
    char* start = at;
    for (char c : value) {
        if (uint8_t(c) >= 0x20 && c != '"' && c != '\\') {
            *at++ = c;
            continue;
        }
        *at++ = '\\';
        size_t form = 0;
        while (form < short_forms.size() && short_forms[form] != c) form += 2;
        if (form < short_forms.size()) {
            *at++ = short_forms[form + 1];
        } else {
            at = std::copy_n("u00", 3, at);
            *at++ = digits[uint8_t(c) >> 4];
            *at++ = digits[uint8_t(c) & 15];
        }
    }
    to.advance(size_t(at - start));
}

void append_number(LineBuffer& to, int64_t value) {
    char* room = to.reserve(24);
    core::Slice digits = core::format_number(value, room);
    std::memmove(room, digits.data(), digits.size());
    to.advance(digits.size());
}

// Seconds with three decimals.
void append_seconds(LineBuffer& to, int64_t ms) {
    append_number(to, ms / 1000);
    int rest = int(ms % 1000);
    char* room = to.reserve(4);
    room[0] = '.';
    room[1] = char('0' + rest / 100);
    room[2] = char('0' + rest / 10 % 10);
    room[3] = char('0' + rest % 10);
    to.advance(4);
}

void append_status(LineBuffer& to, const Request& request) {
    int status = request.response.status;
    if (status == 0 && request.head.version == 9) status = 9;
    char* room = to.reserve(3);
    room[0] = char('0' + status / 100 % 10);
    room[1] = char('0' + status / 10 % 10);
    room[2] = char('0' + status % 10);
    to.advance(3);
}

// The request field that a variable named so is, among those that are found fast and whose values
// are joined by commas.
HeaderId field_of(core::Slice name) {
    constexpr std::pair<core::Slice, HeaderId> fields[] = {
        {"http_referer", HeaderId::referer},
        {"http_user_agent", HeaderId::user_agent},
        {"http_x_forwarded_for", HeaderId::x_forwarded_for},
        {"http_host", HeaderId::host},
        {"http_accept_encoding", HeaderId::accept_encoding},
    };
    for (auto& [variable, id] : fields) {
        if (variable == name) return id;
    }
    return HeaderId::other;
}

bool is_name_byte(char c) { return core::is_alpha(c) || core::is_digit(c) || c == '_'; }

}  // namespace

void append_escaped(LineBuffer& to, core::Slice value, LogEscape how, bool plain_non_ascii) {
    switch (how) {
    case LogEscape::none: return to.append(value);
    case LogEscape::json: return append_json(to, value);
    case LogEscape::standard: return append_hex_escaped(to, value, plain_non_ascii);
    }
}

void LogFormat::add_literal(core::Slice text) {
    if (text.empty()) return;
    if (ops_.empty() || ops_.back().kind != Kind::literal) ops_.push_back({Kind::literal, 0, {}});
    ops_.back().text.append(text);
}

conf::Result<void> LogFormat::compile(core::Slice text, const conf::Line& line) {
    constexpr std::pair<core::Slice, Kind> direct[] = {
        {"time_local", Kind::time_local},     {"time_iso8601", Kind::time_iso8601},
        {"msec", Kind::msec},                 {"request_time", Kind::request_time},
        {"status", Kind::status},             {"bytes_sent", Kind::bytes_sent},
        {"body_bytes_sent", Kind::body_bytes_sent}, {"request", Kind::request_line},
    };
    const core::Slice whole = text;
    while (!text.empty()) {
        size_t dollar = std::min(text.find('$'), text.size());
        add_literal(text.substr(0, dollar));
        text.remove_prefix(dollar);
        if (text.empty()) break;
        bool braced = text.starts_with("${");
        text.remove_prefix(braced ? 2 : 1);
        size_t size = 0;
        while (size < text.size() && is_name_byte(text[size])) ++size;
        if (size == 0 || (braced && (size == text.size() || text[size] != '}'))) {
            return conf::Error{"invalid parameter \"" + std::string(whole) + "\""};
        }
        std::string name = core::to_lower(text.substr(0, size));
        text.remove_prefix(size + braced);
        auto known = std::find_if(std::begin(direct), std::end(direct),
                                  [&](const auto& entry) { return entry.first == name; });
        HeaderId field = field_of(name);
        if (known != std::end(direct)) {
            ops_.push_back({known->second, 0, {}});
        } else if (field != HeaderId::other) {
            ops_.push_back({Kind::field, int(field), {}});
        } else {
            int index = Configuration::current().variables().use(name, line.node.place);
            ops_.push_back({Kind::variable, index, {}});
        }
    }
    return {};
}

void LogFormat::append_found(LineBuffer& to, core::Slice value, bool plain_non_ascii) const {
    if (value.data()) return append_escaped(to, value, escape, plain_non_ascii);
    if (escape == LogEscape::standard) to.append('-');
}

void LogFormat::append_value(Request& request, int index, LineBuffer& to,
                             bool plain_non_ascii) const {
    Value value = variable(request, index);
    if (value.found && !value.text.data()) value.text = "";
    append_found(to, value.found ? value.text : core::Slice{}, plain_non_ascii);
}

void LogFormat::append_line(Request& request, LineBuffer& to, bool plain_non_ascii) const {
    for (const Op& op : ops_) {
        switch (op.kind) {
        case Kind::literal: to.append(op.text); break;
        case Kind::variable: append_value(request, op.variable, to, plain_non_ascii); break;
        case Kind::field:
            append_found(to, request.headers.joined(header_name(HeaderId(op.variable)), ", "),
                         plain_non_ascii);
            break;
        case Kind::request_line: append_found(to, request.head.line, plain_non_ascii); break;
        case Kind::time_local: to.append(core::Clock::access_date()); break;
        case Kind::time_iso8601: to.append(core::Clock::iso_date()); break;
        case Kind::msec: append_seconds(to, core::Clock::wall_ms()); break;
        case Kind::request_time:
            append_seconds(to, std::max<int64_t>(core::Clock::wall_ms() - request.start_ms, 0));
            break;
        case Kind::status: append_status(to, request); break;
        case Kind::bytes_sent: append_number(to, request.bytes_sent); break;
        case Kind::body_bytes_sent: append_number(to, request.body_bytes_sent); break;
        }
    }
    to.append('\n');
}

}  // namespace server
