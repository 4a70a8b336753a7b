// Writing JSON: separators, numbers, strings.
#include "core/json_writer.h"

#include <charconv>
#include <cmath>

#include "core/text.h"

namespace core {

namespace {

void append_escape(std::string& to, char c) {
    switch (c) {
    case '"': to += "\\\""; return;
    case '\\': to += "\\\\"; return;
    case '\n': to += "\\n"; return;
    case '\r': to += "\\r"; return;
    case '\t': to += "\\t"; return;
    default: to += format("\\u%04x", unsigned(uint8_t(c)));
    }
}

}  // namespace

size_t utf8_length(Slice text) {
    auto byte = [&](size_t i) { return i < text.size() ? uint8_t(text[i]) : uint8_t(0); };
    auto follows = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
    uint8_t first = byte(0), second = byte(1);
    if (first < 0x80) return 1;
    if (first >= 0xc2 && first <= 0xdf) return follows(1) ? 2 : 0;
    if (first >= 0xe0 && first <= 0xef) {
        bool shortest = first != 0xe0 || second >= 0xa0;
        bool surrogate = first == 0xed && second >= 0xa0;
        return shortest && !surrogate && follows(1) && follows(2) ? 3 : 0;
    }
    if (first >= 0xf0 && first <= 0xf4) {
        bool shortest = first != 0xf0 || second >= 0x90;
        bool beyond = first == 0xf4 && second >= 0x90;
        return shortest && !beyond && follows(1) && follows(2) && follows(3) ? 4 : 0;
    }
    return 0;
}

void append_json_string(std::string& to, Slice text) {
    to += '"';
    while (!text.empty()) {
        char c = text[0];
        size_t length = utf8_length(text);
        if (length == 0) {
            to += "\\ufffd";
            length = 1;
        } else if (length == 1 && (uint8_t(c) < 0x20 || c == '"' || c == '\\' || c == 0x7f)) {
            append_escape(to, c);
        } else {
            to.append(text.data(), length);
        }
        text.remove_prefix(length);
    }
    to += '"';
}

void JsonWriter::separate() {
    if (comma_) text_ += ',';
    comma_ = true;
}

JsonWriter& JsonWriter::open(char bracket) {
    separate();
    text_ += bracket;
    comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::close(char bracket) {
    text_ += bracket;
    comma_ = true;
    return *this;
}

JsonWriter& JsonWriter::key(Slice name) {
    separate();
    append_json_string(text_, name);
    text_ += ':';
    comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::value(Slice text) {
    separate();
    append_json_string(text_, text);
    return *this;
}

JsonWriter& JsonWriter::value(double number) {
    if (!std::isfinite(number)) return null();
    char room[32];
    auto end = std::to_chars(room, room + sizeof room, number).ptr;
    return put({room, size_t(end - room)});
}

JsonWriter& JsonWriter::put(Slice json) {
    separate();
    text_ += json;
    return *this;
}

JsonWriter& JsonWriter::put_signed(int64_t number) {
    char room[24];
    return put(format_number(number, room));
}

JsonWriter& JsonWriter::put_unsigned(uint64_t number) {
    char room[24];
    return put(format_unsigned(number, room));
}

}  // namespace core
