// The Range field (RFC 9110 14.2), read the way nginx reads it. Pure: called by the range module,
// the unit tests and the fuzzer.
#pragma once

#include <cstdint>

#include "core/slice.h"

namespace server {

struct ByteRange {
    int64_t begin = 0;
    int64_t end = 0;        // exclusive
};

enum class RangeOutcome : uint8_t {
    satisfiable,
    ignored,            // answer with the whole body
    unsatisfiable,      // 416
};

struct ParsedRanges {
    RangeOutcome outcome = RangeOutcome::ignored;
    int64_t count = 0;
};

// How many ranges `text` can hold at most: what `to` must have room for.
int64_t ranges_in(core::Slice text);

// `text` begins with "bytes=" (any case), otherwise it is ignored; so it is when it holds more than
// `ranges_max` ranges or asks for more bytes than there are.
ParsedRanges parse_ranges(core::Slice text, int64_t content_length, int64_t ranges_max,
                          ByteRange* to);

}  // namespace server
