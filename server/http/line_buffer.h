// LineBuffer: where log lines are put together; it grows to the longest line and is used again.
#pragma once

#include <cstdlib>
#include <cstring>

#include "core/arena.h"
#include "core/slice.h"

namespace server {

class LineBuffer {
  public:
    LineBuffer() = default;
    LineBuffer(const LineBuffer&) = delete;
    LineBuffer& operator=(const LineBuffer&) = delete;
    ~LineBuffer() { std::free(data_); }

    char* reserve(size_t count) {
        if (count > capacity_ - size_) [[unlikely]] grow(count);
        return data_ + size_;
    }
    void advance(size_t count) { size_ += count; }
    void append(core::Slice text) {
        std::memcpy(reserve(text.size()), text.data(), text.size());
        size_ += text.size();
    }
    void append(char byte) {
        *reserve(1) = byte;
        ++size_;
    }
    size_t size() const { return size_; }
    core::Slice text() const { return {data_, size_}; }
    void clear() { size_ = 0; }
    // Drops the first `count` bytes.
    void drop_front(size_t count) {
        size_ -= count;
        std::memmove(data_, data_ + count, size_);
    }

  private:
    void grow(size_t count) {
        size_t wanted = capacity_ * 2 > size_ + count ? capacity_ * 2 : size_ + count + 1024;
        core::count_heap_allocation();
        data_ = static_cast<char*>(std::realloc(data_, wanted));
        if (!data_) core::out_of_memory(wanted);
        capacity_ = wanted;
    }

    char* data_ = nullptr;
    size_t size_ = 0;
    size_t capacity_ = 0;
};

}  // namespace server
