// JSON text being built, and how strings and numbers are written into it. Used by both encoders,
// encode.cpp and encode_plain.cpp. Knows nothing of Lua's stack.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstring>

#include "core/slice.h"
#include "lua/cjson/config.h"

namespace lua::cjson {

// The memory of the last text is kept for the next; a call inside a metamethod of another finds
// none and makes its own.
class Text {
  public:
    explicit Text(bool keep);
    ~Text();
    Text(const Text&) = delete;
    Text& operator=(const Text&) = delete;

    char* room(size_t bytes) {
        if (capacity_ - size_ < bytes) [[unlikely]] grow(bytes);
        return data_ + size_;
    }
    void advance(size_t bytes) { size_ += bytes; }
    void add(char c) { *room(1) = c; size_++; }
    void add(core::Slice text) {
        std::memcpy(room(text.size()), text.data(), text.size());
        size_ += text.size();
    }
    size_t size() const { return size_; }
    void cut(size_t size) { size_ = size; }
    const char* data() const { return data_; }

  private:
    void grow(size_t bytes);

    char* data_;
    size_t size_ = 0;
    size_t capacity_;
    bool keep_;
};

// With its quotation marks.
void write_string(Text& text, core::Slice value, bool escape_slash);
// A finite number.
void write_number(Text& text, double number, int precision);

}  // namespace lua::cjson
