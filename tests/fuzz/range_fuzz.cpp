// The Range field: whatever is asked for, parts lie within the body and, if there are several, ask
// for no more than all of it.
#include <cstdlib>
#include <memory>

#include "server/http/range_parse.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    int64_t length = int64_t(data[0]) << (data[1] % 56);
    core::Slice text(reinterpret_cast<const char*>(data + 2), size - 2);
    int64_t room = server::ranges_in(text);
    auto ranges = std::make_unique<server::ByteRange[]>(size_t(room));
    server::ParsedRanges parsed = server::parse_ranges(text, length, INT64_MAX, ranges.get());
    if (parsed.count > room) std::abort();
    if (parsed.outcome != server::RangeOutcome::satisfiable) return 0;
    int64_t bytes = 0;
    for (int64_t i = 0; i < parsed.count; ++i) {
        const server::ByteRange& range = ranges[size_t(i)];
        if (range.begin < 0 || range.begin >= range.end || range.end > length) std::abort();
        bytes += range.end - range.begin;
    }
    if (parsed.count == 0 || bytes > length) std::abort();
    return 0;
}
