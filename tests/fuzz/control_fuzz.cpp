// What the control socket reads, under any bytes: requests in any split, paths, the state file, the
// frames between the master and its workers.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/control/http_reader.h"
#include "server/control/link.h"
#include "server/control/state.h"

namespace {

using namespace server;

// All that came of a stream of requests.
std::string read_requests(core::Slice wire, size_t step) {
    ControlHttp http;
    std::string bytes, seen;
    for (size_t at = 0; at < wire.size(); at += step) {
        bytes += wire.substr(at, step);
        while (!bytes.empty()) {
            auto state = http.feed(bytes);
            if (state == ControlHttp::State::refused) {
                return seen + "refused " + std::to_string(http.status());
            }
            if (state != ControlHttp::State::complete) break;
            const ControlRequest& request = http.request();
            seen += request.method + request.target + "\n" + request.body + "\n";
            bool last = !request.keep_alive;
            http.next();
            if (last) return seen;
        }
    }
    return seen;
}

void check(bool holds) {
    if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 2) return 0;
    core::Slice text(reinterpret_cast<const char*>(data) + 1, size - 1);
    read_requests(text, text.size());
    read_requests(text, 1 + data[0] % 16);
    auto path = split_path(text);
    if (path && !path->empty()) {
        std::string again;
        for (const std::string& segment : *path) {
            again += (again.empty() ? "" : "/") + encode_segment(segment);
        }
        check(split_path(again) == path);
    }
    if (auto state = ControlState::parse(text)) {
        auto again = ControlState::parse(state->to_json());
        check(again && again->to_json() == state->to_json());
    }
    std::string wire(text);
    Frame frame;
    bool broken = false;
    while (take_frame(wire, frame, broken)) {}
    std::vector<ControlItem> items;
    if (decode_items(text, items)) check(encode_items(items).size() <= text.size());
    return 0;
}
