// Heads line by line; chunked framing byte by byte, its data in runs.
#include "server/upstream/response_parser.h"

#include <algorithm>
#include <cstring>

#include "core/text.h"
#include "server/http/headers.h"

namespace server {

namespace {

using core::Slice;

constexpr uint32_t size_line_bytes_max = 4096;
constexpr size_t trailer_bytes_max = 32 * 1024;
constexpr int size_digits_max = 15;

struct ByteClasses {
    bool token[256] = {}, value[256] = {};
    constexpr ByteClasses() {
        for (int c = 0x21; c < 0x7f; ++c) token[c] = true;
        for (char c : std::string_view("\"(),/:;<=>?@[\\]{}")) token[uint8_t(c)] = false;
        for (int c = 0x20; c < 256; ++c) value[c] = c != 0x7f;
        value['\t'] = true;
    }
};
constexpr ByteClasses classes;

bool all_of(const bool (&table)[256], Slice text) {
    for (char c : text) {
        if (!table[uint8_t(c)]) return false;
    }
    return true;
}

// What may stand in a value, eight bytes at a time.
bool is_value(Slice text) {
    constexpr uint64_t ones = 0x0101010101010101;
    while (text.size() >= 8) {
        uint64_t bytes;
        std::memcpy(&bytes, text.data(), sizeof bytes);
        uint64_t not_delete = bytes ^ (ones * 0x7f);
        uint64_t odd = ((bytes - ones * 0x20) & ~bytes) | ((not_delete - ones) & ~not_delete);
        if ((odd & (ones * 0x80)) && !all_of(classes.value, text.substr(0, 8))) return false;
        text.remove_prefix(8);
    }
    return all_of(classes.value, text);
}

// "HTTP/1.1 200 OK"
bool parse_status_line(Slice line, ResponseHead& head) {
    if (line.size() < 12 || !line.starts_with("HTTP/")) return false;
    if (!core::is_digit(line[5]) || line[6] != '.' || !core::is_digit(line[7])) return false;
    if (line[8] != ' ' || line[5] != '1') return false;
    head.version = line[7] == '0' ? 10 : 11;
    line.remove_prefix(9);
    for (int i = 0; i < 3; ++i) {
        if (!core::is_digit(line[size_t(i)])) return false;
        head.status = head.status * 10 + (line[size_t(i)] - '0');
    }
    if (line.size() > 3 && line[3] != ' ') return false;
    if (head.status < 100 || !is_value(line)) return false;
    head.status_line = line;
    return true;
}

const char* note_length(const Header& field, ResponseHead& head) {
    if (head.content_length >= 0) return "upstream sent duplicate header line: \"Content-Length\"";
    auto length = core::parse_number(field.value);
    if (!length) return "upstream sent invalid \"Content-Length\" header";
    head.content_length = int64_t(*length);
    return nullptr;
}

const char* note_encoding(const Header& field, ResponseHead& head) {
    if (head.chunked) return "upstream sent duplicate header line: \"Transfer-Encoding\"";
    if (!core::iequals(field.value, "chunked")) {
        return "upstream sent unknown \"Transfer-Encoding\"";
    }
    head.chunked = true;
    return nullptr;
}

const char* take_field(Slice line, ResponseHead& head, HeaderList& fields) {
    constexpr const char* invalid = "upstream sent invalid header";
    size_t colon = line.find(':');
    if (colon == Slice::npos || colon == 0) return invalid;
    Slice name = line.substr(0, colon);
    Slice value = core::trim(line.substr(colon + 1));
    if (!is_value(value)) return invalid;
    Header& field = fields.add(name, value);
    // A known name is a token.
    if (field.id == HeaderId::other && !all_of(classes.token, name)) return invalid;
    switch (field.id) {
        case HeaderId::content_length: return note_length(field, head);
        case HeaderId::transfer_encoding: return note_encoding(field, head);
        case HeaderId::connection:
            if (core::ifind(value, "close") != Slice::npos) head.close = true;
            return nullptr;
        default: return nullptr;
    }
}

// The next line without its end; `bytes` goes on behind it.
Slice take_line(Slice& bytes) {
    size_t end = bytes.find('\n');
    Slice line = bytes.substr(0, end);
    bytes.remove_prefix(end == Slice::npos ? bytes.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
}

}  // namespace

size_t find_head_end(Slice bytes, size_t& searched) {
    while (searched < bytes.size()) {
        auto* newline = static_cast<const char*>(
            std::memchr(bytes.data() + searched, '\n', bytes.size() - searched));
        if (!newline) break;
        size_t next = size_t(newline - bytes.data()) + 1;
        if (next < bytes.size() && bytes[next] == '\n') return next + 1;
        if (next + 1 < bytes.size() && bytes[next] == '\r' && bytes[next + 1] == '\n') {
            return next + 2;
        }
        if (next + 1 >= bytes.size() && (next == bytes.size() || bytes[next] == '\r')) {
            searched = next - 1;       // the blank line may be on its way
            return 0;
        }
        searched = next;
    }
    return 0;
}

bool may_be_response(Slice bytes) {
    constexpr Slice start = "HTTP/1.";
    size_t known = std::min(bytes.size(), start.size());
    return bytes.substr(0, known) == start.substr(0, known);
}

const char* parse_response_head(Slice bytes, ResponseHead& head, HeaderList& fields) {
    head = {};
    if (!parse_status_line(take_line(bytes), head)) return "upstream sent no valid HTTP/1.0 header";
    if (head.version == 10) head.close = true;
    for (;;) {
        Slice line = take_line(bytes);
        if (line.empty()) break;
        if (const char* wrong = take_field(line, head, fields)) return wrong;
    }
    if (head.chunked && head.content_length >= 0) {
        return "upstream sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same "
               "time";
    }
    return nullptr;
}

void BodyReader::of_length(int64_t bytes) {
    kind_ = Kind::length;
    left_ = bytes;
    state_ = bytes == 0 ? State::complete : State::more;
}

void BodyReader::chunked() {
    kind_ = Kind::chunks;
    at_ = At::size_start;
    left_ = 0;
    state_ = State::more;
}

void BodyReader::until_close() {
    kind_ = Kind::until_close;
    state_ = State::more;
}

BodyReader::State BodyReader::closed() {
    if (state_ == State::more) {
        state_ = kind_ == Kind::until_close ? State::complete : State::bad;
    }
    return state_;
}

Slice BodyReader::next(Slice& bytes) {
    if (kind_ == Kind::until_close) return std::exchange(bytes, Slice{});
    while (state_ == State::more && !bytes.empty()) {
        if (kind_ == Kind::length || at_ == At::data) {
            size_t run = size_t(std::min<int64_t>(left_, int64_t(bytes.size())));
            Slice data = bytes.substr(0, run);
            bytes.remove_prefix(run);
            left_ -= int64_t(run);
            if (left_ == 0) {
                if (kind_ == Kind::length) state_ = State::complete;
                at_ = At::data_cr;
            }
            return data;
        }
        step(bytes[0]);
        bytes.remove_prefix(1);
    }
    return {};
}

void BodyReader::size_read() {
    framing_bytes_ = 0;
    digits_ = 0;
    at_ = left_ > 0 ? At::data : At::trailer;
    line_start_ = trailers_.size();
}

void BodyReader::step(char byte) {
    if (at_ != At::trailer && ++framing_bytes_ > size_line_bytes_max) return bad();
    switch (at_) {
        case At::size_start:
        case At::size: {
            int digit = core::hex_value(byte);
            if (digit >= 0) {
                if (left_ > 0 && ++digits_ >= size_digits_max) return bad();
                left_ = left_ * 16 + digit;
                at_ = At::size;
                return;
            }
            if (at_ == At::size_start) return bad();
            if (byte == '\r') at_ = At::size_end;
            else if (byte == ';' || byte == ' ' || byte == '\t') at_ = At::extension;
            else return bad();
            return;
        }
        case At::extension:
            if (byte == '\r') at_ = At::size_end;
            else if (byte == '\n') return bad();
            return;
        case At::size_end: return byte == '\n' ? size_read() : bad();
        case At::data_cr:
            at_ = At::data_lf;
            return byte == '\r' ? void() : bad();
        case At::data_lf:
            at_ = At::size_start;
            left_ = 0;
            return byte == '\n' ? void() : bad();
        case At::trailer: return trailer_byte(byte);
        case At::data: return;
    }
}

void BodyReader::trailer_byte(char byte) {
    if (trailers_.size() >= trailer_bytes_max) return bad();
    trailers_.push_back(byte);
    if (byte != '\n') return;
    Slice line = Slice(trailers_).substr(line_start_);
    if (line == "\r\n" || line == "\n") {
        trailers_.resize(line_start_);
        state_ = State::complete;
    }
    line_start_ = trailers_.size();
}

bool parse_trailers(Slice lines, HeaderList& fields) {
    ResponseHead unused;
    while (!lines.empty()) {
        Slice line = take_line(lines);
        size_t colon = line.find(':');
        if (colon == Slice::npos || colon == 0) return false;
        Slice name = line.substr(0, colon), value = core::trim(line.substr(colon + 1));
        if (!all_of(classes.token, name) || !is_value(value)) return false;
        fields.add(name, value);
    }
    return true;
}

}  // namespace server
