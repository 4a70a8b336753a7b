// ReceiveBuffer: the bytes a socket has received and nobody has taken yet, in one run of memory,
// made when the first byte is about to come. Knows no socket. Used by socket_connection.h.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "core/slice.h"

namespace lua {

class ReceiveBuffer {
  public:
    ReceiveBuffer() = default;
    ReceiveBuffer(const ReceiveBuffer&) = delete;
    ReceiveBuffer& operator=(const ReceiveBuffer&) = delete;
    ~ReceiveBuffer() { std::free(data_); }

    core::Slice unread() const { return {data_ + begin_, end_ - begin_}; }
    bool empty() const { return begin_ == end_; }
    void consume(size_t count) {
        begin_ += count;
        if (begin_ == end_) begin_ = end_ = 0;
    }
    void clear() { begin_ = end_ = 0; }

    // Room for at least `bytes` behind the unread ones; null when there is no memory. What is put
    // there counts from filled() on.
    char* room(size_t bytes) {
        if (capacity_ - end_ < bytes && !make_room(bytes)) [[unlikely]] return nullptr;
        return data_ + end_;
    }
    void filled(size_t count) { end_ += count; }
    size_t capacity() const { return capacity_; }
    // Gives back what a large reply made it grow to.
    void shrink(size_t keep) {
        if (capacity_ <= keep || !empty()) return;
        std::free(data_);
        data_ = nullptr;
        capacity_ = 0;
    }

  private:
    bool make_room(size_t bytes) {
        size_t held = end_ - begin_;
        if (begin_ > 0) {
            std::memmove(data_, data_ + begin_, held);
            begin_ = 0;
            end_ = held;
            if (capacity_ - end_ >= bytes) return true;
        }
        size_t wanted = capacity_ * 2 > held + bytes ? capacity_ * 2 : held + bytes;
        auto* larger = static_cast<char*>(std::realloc(data_, wanted));
        if (!larger) return false;
        data_ = larger;
        capacity_ = wanted;
        return true;
    }

    char* data_ = nullptr;
    size_t begin_ = 0, end_ = 0, capacity_ = 0;
};

}  // namespace lua
