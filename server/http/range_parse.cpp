// Reading byte ranges. Errors of form are "not satisfiable", as in nginx.
#include "server/http/range_parse.h"

#include <algorithm>
#include <optional>

#include "core/text.h"

namespace server {

namespace {

constexpr core::Slice unit = "bytes=";

class Reader {
  public:
    explicit Reader(core::Slice text) : text_(text) {}
    bool take(char wanted) {
        if (text_.empty() || text_[0] != wanted) return false;
        text_.remove_prefix(1);
        return true;
    }
    void skip_spaces() { while (take(' ')) {} }
    bool at_end_of_item() const { return text_.empty() || text_[0] == ','; }
    bool at(char wanted) const { return !text_.empty() && text_[0] == wanted; }
    std::optional<int64_t> number() {
        size_t digits = 0;
        while (digits < text_.size() && core::is_digit(text_[digits])) ++digits;
        auto value = core::parse_number(text_.substr(0, digits));
        text_.remove_prefix(digits);
        if (!value) return {};
        return int64_t(*value);
    }

  private:
    core::Slice text_;
};

// One "first-last", "first-" or "-suffix". False: malformed. A range behind the end comes out
// empty.
bool parse_one(Reader& reader, int64_t length, ByteRange& range) {
    reader.skip_spaces();
    bool suffix = reader.at('-');
    if (!suffix) {
        auto first = reader.number();
        if (!first) return false;
        range.begin = *first;
        reader.skip_spaces();
    }
    if (!reader.take('-')) return false;
    if (!suffix) reader.skip_spaces();
    if (!suffix && reader.at_end_of_item()) {
        range.end = length;
        return true;
    }
    auto last = reader.number();
    if (!last) return false;
    reader.skip_spaces();
    if (!reader.at_end_of_item()) return false;
    if (suffix) {
        range.begin = *last < length ? length - *last : 0;
        range.end = *last == 0 ? range.begin : length;
    } else {
        range.end = *last >= length ? length : *last + 1;
    }
    return true;
}

}  // namespace

int64_t ranges_in(core::Slice text) { return std::count(text.begin(), text.end(), ',') + 1; }

ParsedRanges parse_ranges(core::Slice text, int64_t content_length, int64_t ranges_max,
                          ByteRange* to) {
    ParsedRanges parsed;
    if (text.size() <= unit.size() || !core::istarts_with(text, unit)) return parsed;
    Reader reader(text.substr(unit.size()));
    int64_t bytes = 0;
    bool more_than_all = false;
    do {
        ByteRange range;
        if (!parse_one(reader, content_length, range)) {
            return {RangeOutcome::unsatisfiable, 0};
        }
        if (range.begin >= range.end) {
            if (range.begin == 0) return parsed;
            continue;
        }
        // Overlapping ranges may ask for the body many times over; more than once is refused below.
        int64_t size = range.end - range.begin;
        more_than_all |= size > content_length - bytes;
        if (!more_than_all) bytes += size;
        if (parsed.count == ranges_max) return {};
        to[parsed.count++] = range;
    } while (reader.take(','));
    if (parsed.count == 0) return {RangeOutcome::unsatisfiable, 0};
    if (parsed.count > 1) {
        if (more_than_all) return {};
        // Without max_ranges many tiny ranges must not cost more than the whole body: each brings a
        // part header with it.
        bool unlimited = ranges_max >= INT32_MAX;
        if (unlimited && parsed.count * 256 - 4096 > content_length - bytes) return {};
    }
    parsed.outcome = RangeOutcome::satisfiable;
    return parsed;
}

}  // namespace server
