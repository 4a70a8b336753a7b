// The head gate under any bytes and any splits: the outcome must be that of the whole.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/http/h1_head.h"

namespace {

using server::HeadLimits;
using server::HeadScan;

struct Outcome {
    HeadScan::Result result;
    size_t end;
    int status;
};

// Feeds growing prefixes; `steps` says by how much each grows.
Outcome scan(const std::string& bytes, const std::string& steps) {
    constexpr HeadLimits limits{256, 1024};
    HeadScan scan;
    auto result = HeadScan::Result::incomplete;
    size_t size = 0;
    for (size_t i = 0; size < bytes.size() && result == HeadScan::Result::incomplete; ++i) {
        size_t step = steps.empty() ? bytes.size() : 1 + uint8_t(steps[i % steps.size()]);
        size = std::min(bytes.size(), size + step);
        result = scan.scan({bytes.data(), size}, limits);
    }
    bool complete = result == HeadScan::Result::complete;
    return {result, complete ? scan.end() : 0, scan.status()};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    size_t count = std::min<size_t>(data[0] % 8, size - 1);
    std::string steps(reinterpret_cast<const char*>(data) + 1, count);
    std::string bytes(reinterpret_cast<const char*>(data) + 1 + count, size - 1 - count);
    Outcome whole = scan(bytes, ""), split = scan(bytes, steps);
    // A refusal may come earlier, or for another reason, when a limit is met mid-line; but what is
    // accepted must end at the same byte.
    bool same = (whole.result == HeadScan::Result::complete) ==
                (split.result == HeadScan::Result::complete);
    if (!same || whole.end != split.end) std::abort();
    return 0;
}
