// What receive(), receiveany() and receiveuntil() look for in the bytes that come: pure logic on a
// run of unread bytes, which grows while the call waits. Knows no socket and no Lua.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/slice.h"

namespace lua {

// receiveuntil's pattern, ready for matching in one pass (Knuth, Morris and Pratt).
class UntilPattern {
  public:
    UntilPattern(core::Slice text, bool inclusive);

    core::Slice text() const { return text_; }
    bool inclusive() const { return inclusive_; }
    // The longest proper beginning of the pattern that ends its first `matched` bytes.
    size_t border(size_t matched) const { return borders_[matched]; }

    bool ended = false;        // a sized read found it: the next call says so

  private:
    std::string text_;
    std::vector<uint32_t> borders_;
    bool inclusive_;
};

// One call's progress.
class Reading {
  public:
    // `bytes_max` 0: however long it is.
    static Reading line(size_t bytes_max = 0) { return Reading(Kind::line, bytes_max); }
    static Reading all() { return Reading(Kind::all, 0); }
    static Reading exactly(size_t bytes) { return Reading(Kind::exactly, bytes); }
    static Reading any(size_t bytes_max) { return Reading(Kind::any, bytes_max); }
    // `bytes` 0: up to the pattern, else in pieces of so many bytes.
    static Reading until(UntilPattern& pattern, size_t bytes) {
        Reading reading(Kind::until, bytes);
        reading.pattern_ = &pattern;
        reading.rest_ = bytes;
        return reading;
    }

    // Looks at all unread bytes, of which it has seen the first before. True: it has what it wants.
    bool scan(core::Slice unread);
    // The stream has ended: that satisfies it too.
    bool ends_with_stream() const { return kind_ == Kind::all; }
    // How many bytes more it knows it needs; 0: it cannot tell.
    size_t wanted(size_t unread) const {
        return kind_ == Kind::exactly && bytes_ > unread ? bytes_ - unread : 0;
    }
    bool may_take_much() const { return kind_ != Kind::any && kind_ != Kind::exactly; }

    // The first given() of the unread bytes are the result, the first taken() are used up. Before
    // scan() was true: what is there so far, without what may be the pattern's beginning.
    size_t given() const { return given_; }
    size_t taken() const { return taken_; }
    // The line has more than bytes_max bytes: nothing was taken.
    bool too_long() const { return too_long_; }
    // Carriage returns are no part of a line.
    bool drops_returns() const { return kind_ == Kind::line; }

  private:
    enum class Kind : uint8_t { line, all, exactly, any, until };
    Reading(Kind kind, size_t bytes) : kind_(kind), bytes_(bytes) {}

    bool have(size_t given, size_t taken) {
        given_ = given;
        taken_ = taken;
        return true;
    }
    bool wait(size_t seen) {
        given_ = taken_ = seen;
        return false;
    }
    bool scan_line(core::Slice unread);
    bool refuse_line();
    bool scan_until(core::Slice unread);
    bool skip_to_first_byte(core::Slice unread);
    bool fall_back(char next);
    bool spend(size_t bytes);

    Kind kind_;
    size_t bytes_;
    size_t given_ = 0, taken_ = 0;
    size_t seen_ = 0;
    UntilPattern* pattern_ = nullptr;
    size_t matched_ = 0;       // bytes of the pattern that end what was seen
    size_t rest_ = 0;          // of a sized piece
    bool too_long_ = false;
};

}  // namespace lua
