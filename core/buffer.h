// Bodies on the move: a Chain is a list of Buffers, each a run of memory or a range of a file.
// A Buffer borrows its bytes from an Owner (a pooled chunk, an open file) or, with none, from
// memory that outlives the response (static text, the request's arena).
//
// Buffers come from a per-thread pool; a Chain gives its buffers back, and with them their owners'
// references, when it is destroyed or consumed.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/slice.h"

namespace core {

// Something a Buffer's bytes live in. The last drop() releases it.
struct Owner {
    uint32_t references = 1;
    void (*release)(Owner*) = nullptr;

    void hold() { ++references; }
    void drop() {
        if (--references == 0) release(this);
    }
};

// A pooled run of memory of one size.
struct Chunk : Owner {
    static constexpr size_t capacity = 16 * 1024 - 32;

    uint32_t used = 0;

    char* data() { return reinterpret_cast<char*>(this + 1); }
    size_t room() const { return capacity - used; }

    static Chunk* take();   // references == 1, used == 0
    static void recycle(Owner* chunk);   // what `release` of every chunk is
};

// An open file descriptor shared by buffers; closed with the last reference.
struct OpenFile : Owner {
    int fd = -1;

    static OpenFile* adopt(int fd);
};

struct Buffer {
    enum Flag : uint8_t {
        flush = 1,      // what is before this must reach the client now
        last = 2,       // the end of the response body
        file = 4,       // a file range rather than memory
        sync = 8,       // carries no bytes by intent
        in_request = 16 // points into the request's arena: copied if the request may end first
    };

    Buffer* next;
    const char* begin;     // memory
    const char* end;
    Owner* owner;          // may be null; for a file range an OpenFile
    int64_t file_begin;    // byte offsets
    int64_t file_end;
    uint8_t flags;

    bool is_file() const { return flags & file; }
    int64_t size() const { return is_file() ? file_end - file_begin : end - begin; }
    Slice text() const { return {begin, size_t(end - begin)}; }
    int fd() const { return static_cast<OpenFile*>(owner)->fd; }
};

class Chain {
  public:
    Chain() = default;
    Chain(const Chain&) = delete;
    Chain& operator=(const Chain&) = delete;
    Chain(Chain&& from) noexcept
        : head_(std::exchange(from.head_, nullptr)), tail_(std::exchange(from.tail_, nullptr)) {}
    Chain& operator=(Chain&& from) noexcept {
        if (this != &from) {
            if (head_) clear();
            head_ = std::exchange(from.head_, nullptr);
            tail_ = std::exchange(from.tail_, nullptr);
        }
        return *this;
    }
    ~Chain() {
        if (head_) clear();
    }

    bool empty() const { return !head_; }
    Buffer* head() const { return head_; }
    Buffer* tail() const { return tail_; }

    // Appends bytes that outlive the chain (static, or held by `owner`, whose reference is taken
    // over when given).
    Buffer& add(Slice bytes, Owner* owner = nullptr, uint8_t flags = 0);
    // Appends bytes of the request's arena.
    Buffer& add_from_request(Slice bytes) { return add(bytes, nullptr, Buffer::in_request); }
    // Appends a copy, in pooled chunks (joined to the tail's chunk where that has room).
    void add_copy(Slice bytes);
    // Room for `count` bytes (at most Chunk::capacity) at the end of the chain, to be written by
    // the caller and then counted in with commit().
    char* reserve(size_t count) {
        Chunk* chunk = writable_tail();
        return chunk && chunk->room() >= count ? chunk->data() + chunk->used : reserve_new();
    }
    void commit(size_t count) {
        static_cast<Chunk*>(tail_->owner)->used += uint32_t(count);
        tail_->end += count;
    }
    // Appends [from, to) of a file; takes over one reference.
    Buffer& add_file(OpenFile* file, int64_t from, int64_t to);
    // Appends an empty buffer with flags (last, flush, sync).
    Buffer& add_mark(uint8_t flags) { return add({}, nullptr, flags); }

    void append(Chain&& more);
    // Unlinks and returns the first buffer; the caller gives it back with release().
    Buffer* pop();
    void push_front(Buffer* buffer);
    static void release(Buffer* buffer);

    // Drops `bytes` from the front, with every buffer that is then used up. Marks at the front go
    // with the bytes before them.
    void consume(int64_t bytes);
    int64_t bytes() const;
    bool ends() const { return tail_ && (tail_->flags & Buffer::last); }
    void clear();

  private:
    void link(Buffer* buffer);
    char* reserve_new();
    // The tail's chunk, when the tail is the last buffer in it: only that one may grow.
    Chunk* writable_tail() const {
        if (!tail_ || tail_->flags & (Buffer::file | Buffer::last) || !tail_->owner) return nullptr;
        if (tail_->owner->release != Chunk::recycle) return nullptr;
        auto* chunk = static_cast<Chunk*>(tail_->owner);
        return tail_->end == chunk->data() + chunk->used ? chunk : nullptr;
    }

    Buffer* head_ = nullptr;
    Buffer* tail_ = nullptr;
};

}  // namespace core
