// Arena: bump allocation for everything that dies together (a connection, a request, a
// configuration). Freed as a whole; destructors run newest first, and only for types that need one.
//
// Blocks come from a per-thread pool, so in steady state an arena makes no heap allocation.
// An allocation that does not fit a block gets memory of its own from the heap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "core/slice.h"

namespace core {

class Arena {
  public:
    static constexpr size_t block_bytes = 4096;

    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() { clear(); }

    // Never returns null: running out of memory ends the process (see out_of_memory()).
    void* allocate(size_t bytes, size_t align = alignof(std::max_align_t)) {
        uintptr_t at = (cursor_ + (align - 1)) & ~(uintptr_t(align) - 1);
        if (at + bytes > end_) [[unlikely]] return allocate_slow(bytes, align);
        cursor_ = at + bytes;
        return reinterpret_cast<void*>(at);
    }

    template <class T, class... Args>
    T* make(Args&&... args) {
        T* object = ::new (allocate(sizeof(T), alignof(T))) T(std::forward<Args>(args)...);
        if constexpr (!std::is_trivially_destructible_v<T>) {
            on_destroy([](void* it) { static_cast<T*>(it)->~T(); }, object);
        }
        return object;
    }

    // Uninitialised room for `count` trivial objects.
    template <class T>
    T* make_array(size_t count) {
        static_assert(std::is_trivially_destructible_v<T>);
        return static_cast<T*>(allocate(sizeof(T) * count, alignof(T)));
    }

    char* bytes(size_t count) { return static_cast<char*>(allocate(count, 1)); }

    Slice copy(Slice text) {
        char* to = bytes(text.size());
        std::memcpy(to, text.data(), text.size());
        return {to, text.size()};
    }

    // A copy with a terminating NUL behind it (not counted in the slice).
    Slice copy_z(Slice text) {
        char* to = bytes(text.size() + 1);
        std::memcpy(to, text.data(), text.size());
        to[text.size()] = '\0';
        return {to, text.size()};
    }

    // Gives back [from, end) when it is the tail of the newest allocation; otherwise those bytes
    // stay unused until the arena dies.
    void give_back(const void* from, const void* end) {
        if (cursor_ == reinterpret_cast<uintptr_t>(end)) {
            cursor_ = reinterpret_cast<uintptr_t>(from);
        }
    }

    // Bytes left in the current block; an appender may take them all and give the rest back.
    size_t room() const { return end_ - cursor_; }

    void on_destroy(void (*run)(void*), void* argument);

    // Runs the destructors newest first; the memory stays.
    void run_destructors();

    // Runs the destructors and gives all memory back.
    void clear();

    // Takes over another arena's memory and destructors; `from` is empty afterwards.
    void take(Arena& from);

  private:
    struct Block;
    struct Cleanup;

    void* allocate_slow(size_t bytes, size_t align);

    uintptr_t cursor_ = 0;
    uintptr_t end_ = 0;
    Block* blocks_ = nullptr;
    Block* large_ = nullptr;
    Cleanup* cleanups_ = nullptr;
};

// Appends text in one pass, growing as it goes; what was written never moves once taken.
// A result is one contiguous slice in the arena.
class Appender {
  public:
    explicit Appender(Arena& arena, size_t expected = 64);
    void append(Slice text) {
        if (text.size() > size_t(end_ - at_)) grow(text.size());
        std::memcpy(at_, text.data(), text.size());
        at_ += text.size();
    }
    void append(char byte) {
        if (at_ == end_) grow(1);
        *at_++ = byte;
    }
    void append_number(int64_t value);
    // Room for `count` bytes that the caller writes itself and then commits with advance().
    char* reserve(size_t count) {
        if (count > size_t(end_ - at_)) grow(count);
        return at_;
    }
    void advance(size_t count) { at_ += count; }
    size_t size() const { return at_ - start_; }
    Slice written() const { return {start_, size()}; }
    Slice take();

  private:
    void grow(size_t needed);

    Arena& arena_;
    char* start_;
    char* at_;
    char* end_;
};

// The number of heap allocations made by arenas and chunks of this thread (tests read it).
uint64_t heap_allocations();
void count_heap_allocation();

[[noreturn]] void out_of_memory(size_t bytes);

}  // namespace core
