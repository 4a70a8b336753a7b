// Recoding text from one charset to another, piece by piece. Called by the charset filter; knows no
// requests.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/slice.h"
#include "server/http/line_buffer.h"

namespace server {

// What a charset_map says, in both directions. The first column is a single-byte charset; the
// second is another one or UTF-8.
class CharsetTable {
  public:
    explicit CharsetTable(bool to_utf8);

    bool utf8() const { return utf8_; }
    void map(uint8_t from, uint8_t to);                 // two single-byte charsets
    // `bytes`: one UTF-8 character of up to three bytes. False: it is none.
    bool map_utf8(uint8_t from, core::Slice bytes);

    uint8_t forward(uint8_t byte) const { return forward_[byte]; }
    uint8_t backward(uint8_t byte) const { return backward_[byte]; }
    core::Slice forward_utf8(uint8_t byte) const {
        return {sequences_[byte].bytes, sequences_[byte].size};
    }
    uint8_t backward_utf8(uint32_t character) const;    // 0: not in the charset

  private:
    struct Sequence {
        uint8_t size;
        char bytes[3];
    };
    bool utf8_;
    std::array<uint8_t, 256> forward_, backward_;
    std::array<Sequence, 256> sequences_;
    std::array<std::unique_ptr<std::array<uint8_t, 256>>, 256> pages_;
};

class Recoder {
  public:
    enum Direction : uint8_t { forward, backward };
    Recoder() = default;
    Recoder(const CharsetTable& table, Direction direction)
        : table_(&table), direction_(direction) {}

    // Does the text's length change?
    bool changes_length() const { return table_->utf8(); }
    // Appends `text` recoded. A character that is cut off at its end waits for the next piece; what
    // is not UTF-8 becomes '?', what the charset lacks becomes "&#N;".
    void feed(core::Slice text, LineBuffer& out);

  private:
    void feed_from_utf8(core::Slice text, LineBuffer& out);
    void put_character(uint32_t character, LineBuffer& out);

    const CharsetTable* table_ = nullptr;
    Direction direction_ = forward;
    uint8_t held_size_ = 0;
    char held_[4];
};

}  // namespace server
