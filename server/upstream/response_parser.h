// Reads an HTTP/1 response of an upstream server: the head as a whole, once it is there, and the
// body's framing piece by piece without copying. Strict where leniency would let two servers see
// two different responses (RFC 9112 6.3, 7.1); the outcome does not depend on how bytes were split.
//
// Called by the proxy module. Knows no connection and no request.
#pragma once

#include <cstdint>
#include <string>

#include "core/slice.h"

namespace core {
class Arena;
}

namespace server {

class HeaderList;

struct ResponseHead {
    int status = 0;
    int version = 11;                // 10, 11
    core::Slice status_line;         // "404 Not Found"
    int64_t content_length = -1;     // -1: not said
    bool chunked = false;
    bool close = false;              // the connection ends with this response
};

// The size of the head at the start of `bytes`, blank line included; 0: not all of it is there.
// `searched`: where the last call stopped (0 at first).
size_t find_head_end(core::Slice bytes, size_t& searched);

// Could these bytes be the start of a response?
bool may_be_response(core::Slice bytes);

// Takes a whole head apart: `bytes` must live as long as the list. Null, or what is wrong, in words
// for the log: "upstream sent …".
const char* parse_response_head(core::Slice bytes, ResponseHead& head, HeaderList& fields);

// The framing of a body.
class BodyReader {
  public:
    enum class State : uint8_t { more, complete, bad };

    void none() { kind_ = Kind::length; left_ = 0; state_ = State::complete; }
    void of_length(int64_t bytes);
    void chunked();
    void until_close();

    // The next run of body bytes in `bytes`, which loses that run and the framing before it. Empty:
    // nothing more in there (see state()).
    core::Slice next(core::Slice& bytes);
    State state() const { return state_; }
    // The connection has ended: complete, if that was to end the body.
    State closed();
    bool is_until_close() const { return kind_ == Kind::until_close; }
    bool is_chunked() const { return kind_ == Kind::chunks; }
    int64_t left() const { return kind_ == Kind::length ? left_ : -1; }
    // The lines behind the last chunk, complete ones.
    const std::string& trailers() const { return trailers_; }

  private:
    enum class Kind : uint8_t { length, chunks, until_close };
    enum class At : uint8_t { size_start, size, extension, size_end, data, data_cr, data_lf,
                              trailer };

    void step(char byte);
    void trailer_byte(char byte);
    void size_read();
    void bad() { state_ = State::bad; }

    Kind kind_ = Kind::length;
    At at_ = At::size_start;
    State state_ = State::more;
    int64_t left_ = 0;
    int digits_ = 0;
    uint32_t framing_bytes_ = 0;     // of the current size line, for its limit
    size_t line_start_ = 0;          // of the trailer line being read
    std::string trailers_;
};

// Adds the trailer lines to `fields`. False: one of them is malformed.
bool parse_trailers(core::Slice lines, HeaderList& fields);

}  // namespace server
