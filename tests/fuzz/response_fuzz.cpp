// Responses of upstream servers under any bytes and any splits: head, framing and trailers must
// come out as they do from the whole.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/arena.h"
#include "server/http/headers.h"
#include "server/upstream/response_parser.h"

namespace {

using server::BodyReader;

struct Outcome {
    size_t head_end = 0;
    bool good_head = false;
    std::string body;
    BodyReader::State state = BodyReader::State::more;
    size_t left = 0;               // bytes behind the response
    std::string trailers;
    bool operator==(const Outcome&) const = default;
};

class Steps {
  public:
    explicit Steps(const std::string& sizes) : sizes_(sizes) {}
    size_t next(size_t left) {
        if (sizes_.empty()) return left;
        return std::min<size_t>(left, 1 + uint8_t(sizes_[at_++ % sizes_.size()]));
    }

  private:
    const std::string& sizes_;
    size_t at_ = 0;
};

void frame(const server::ResponseHead& head, BodyReader& reader) {
    if (head.chunked) return reader.chunked();
    if (head.content_length >= 0) return reader.of_length(head.content_length);
    reader.until_close();
}

void read_body(const std::string& bytes, Steps& steps, BodyReader& reader, Outcome& outcome) {
    size_t at = outcome.head_end;
    while (at < bytes.size() && reader.state() == BodyReader::State::more) {
        size_t step = steps.next(bytes.size() - at);
        core::Slice piece(bytes.data() + at, step);
        at += step;
        while (reader.state() == BodyReader::State::more) {
            core::Slice run = reader.next(piece);
            if (run.empty()) break;
            outcome.body.append(run);
        }
        at -= piece.size();
        if (!piece.empty() && reader.state() == BodyReader::State::more) std::abort();
    }
    outcome.left = bytes.size() - at;
    outcome.state = reader.state();
    outcome.trailers = reader.trailers();
}

Outcome read(const std::string& bytes, const std::string& sizes) {
    Outcome outcome;
    Steps steps(sizes);
    size_t searched = 0, size = 0;
    while (size < bytes.size() && !outcome.head_end) {
        size += steps.next(bytes.size() - size);
        outcome.head_end = server::find_head_end({bytes.data(), size}, searched);
    }
    if (!outcome.head_end) return outcome;
    core::Arena arena;
    server::HeaderList fields(arena);
    server::ResponseHead head;
    core::Slice text = arena.copy({bytes.data(), outcome.head_end});
    outcome.good_head = !server::parse_response_head(text, head, fields);
    if (!outcome.good_head) return outcome;
    BodyReader reader;
    frame(head, reader);
    read_body(bytes, steps, reader, outcome);
    // What is broken may be found out earlier or later in the same piece.
    if (outcome.state == BodyReader::State::bad) outcome.left = 0;
    if (outcome.state != BodyReader::State::complete) outcome.trailers.clear();
    if (outcome.state == BodyReader::State::complete) {
        server::parse_trailers(arena.copy(outcome.trailers), fields);
    }
    return outcome;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    constexpr size_t steps_max = 8;
    size_t count = std::min<size_t>(data[0] % steps_max, size - 1);
    std::string sizes(reinterpret_cast<const char*>(data) + 1, count);
    std::string bytes(reinterpret_cast<const char*>(data) + 1 + count, size - 1 - count);
    if (!(read(bytes, "") == read(bytes, sizes))) std::abort();
    return 0;
}
