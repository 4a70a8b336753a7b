// Arena blocks and their per-thread pool.
#include "core/arena.h"

#include <cstdio>
#include <cstdlib>

#include "core/pools.h"
#include "core/text.h"

namespace core {

struct Arena::Block {
    Block* next;
};

struct Arena::Cleanup {
    void (*run)(void*);
    void* argument;
    Cleanup* next;
};

namespace {

// At most this many free blocks are kept per thread (16 MB); more go back to the heap.
constexpr size_t pooled_blocks_max = 4096;

struct FreeBlock {
    FreeBlock* next;
};

// Without a destructor, so that reaching the pool is one instruction: a thread that ends leaves its
// free blocks behind (only the loop's thread has any to speak of).
struct BlockPool {
    FreeBlock* free;
    size_t count;
};

constinit thread_local BlockPool pool{};
constinit thread_local uint64_t allocations = 0;

void* take_block() {
    if (FreeBlock* block = pool.free) {
        pool.free = block->next;
        --pool.count;
        return block;
    }
    ++allocations;
    void* block = std::malloc(Arena::block_bytes);
    if (!block) out_of_memory(Arena::block_bytes);
    return block;
}

void give_block(void* memory) {
    if (pool.count >= pooled_blocks_max) {
        std::free(memory);
        return;
    }
    auto* block = static_cast<FreeBlock*>(memory);
    block->next = pool.free;
    pool.free = block;
    ++pool.count;
}

}  // namespace

void drain_arena_pool() {
    while (pool.free) std::free(take_block());
}

void* Arena::allocate_slow(size_t bytes, size_t align) {
    if (bytes + align > block_bytes / 2) {
        ++allocations;
        auto* block = static_cast<Block*>(std::malloc(sizeof(Block) + align + bytes));
        if (!block) out_of_memory(bytes);
        block->next = large_;
        large_ = block;
        uintptr_t at = reinterpret_cast<uintptr_t>(block + 1);
        return reinterpret_cast<void*>((at + (align - 1)) & ~(uintptr_t(align) - 1));
    }
    auto* block = static_cast<Block*>(take_block());
    block->next = blocks_;
    blocks_ = block;
    cursor_ = reinterpret_cast<uintptr_t>(block + 1);
    end_ = reinterpret_cast<uintptr_t>(block) + block_bytes;
    return allocate(bytes, align);
}

void Arena::on_destroy(void (*run)(void*), void* argument) {
    auto* cleanup = static_cast<Cleanup*>(allocate(sizeof(Cleanup), alignof(Cleanup)));
    *cleanup = {run, argument, cleanups_};
    cleanups_ = cleanup;
}

void Arena::run_destructors() {
    while (Cleanup* cleanup = cleanups_) {
        cleanups_ = cleanup->next;
        cleanup->run(cleanup->argument);
    }
}

void Arena::clear() {
    run_destructors();
    while (Block* block = large_) {
        large_ = block->next;
        std::free(block);
    }
    while (Block* block = blocks_) {
        blocks_ = block->next;
        give_block(block);
    }
    cursor_ = end_ = 0;
}

void Arena::take(Arena& from) {
    clear();
    cursor_ = std::exchange(from.cursor_, 0);
    end_ = std::exchange(from.end_, 0);
    blocks_ = std::exchange(from.blocks_, nullptr);
    large_ = std::exchange(from.large_, nullptr);
    cleanups_ = std::exchange(from.cleanups_, nullptr);
}

Appender::Appender(Arena& arena, size_t expected) : arena_(arena) {
    size_t room = expected > arena.room() ? expected : arena.room();
    start_ = at_ = arena.bytes(room);
    end_ = start_ + room;
}

void Appender::grow(size_t needed) {
    size_t used = size();
    size_t room = (used + needed) * 2;
    char* to = arena_.bytes(room);
    std::memcpy(to, start_, used);
    start_ = to;
    at_ = to + used;
    end_ = to + room;
}

Slice Appender::take() {
    arena_.give_back(at_, end_);
    Slice text = written();
    start_ = at_ = end_ = nullptr;
    return text;
}

void Appender::append_number(int64_t value) {
    char digits[24];
    append(format_number(value, digits));
}

uint64_t heap_allocations() { return allocations; }
void count_heap_allocation() { ++allocations; }

void out_of_memory(size_t bytes) {
    std::fprintf(stderr, "out of memory: %zu bytes\n", bytes);
    std::abort();
}

}  // namespace core
