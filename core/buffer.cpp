// Pools of buffers and chunks, and the chain operations.
#include "core/buffer.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/arena.h"
#include "core/pools.h"

namespace core {

namespace {

constexpr size_t pooled_chunks_max = 1024;    // 16 MB a thread
constexpr size_t pooled_buffers_max = 65536;  // 4 MB a thread

// Pools have no destructors, so that reaching them is one instruction (see arena.cpp).
struct ChunkPool {
    Owner* free;             // linked through the first word of the chunk's data
    size_t count;

    Chunk* pop() {
        if (!free) return nullptr;
        auto* chunk = static_cast<Chunk*>(free);
        std::memcpy(&free, chunk->data(), sizeof free);
        --count;
        return chunk;
    }
    void push(Chunk* chunk) {
        std::memcpy(chunk->data(), &free, sizeof free);
        free = chunk;
        ++count;
    }
};

struct BufferPool {
    Buffer* free;
    size_t count;
};

constinit thread_local ChunkPool chunks{};
constinit thread_local BufferPool buffers{};

void release_file(Owner* owner) {
    auto* file = static_cast<OpenFile*>(owner);
    ::close(file->fd);
    delete file;
}

Buffer* take_buffer() {
    if (Buffer* buffer = buffers.free) {
        buffers.free = buffer->next;
        --buffers.count;
        return buffer;
    }
    count_heap_allocation();
    auto* buffer = static_cast<Buffer*>(std::malloc(sizeof(Buffer)));
    if (!buffer) out_of_memory(sizeof(Buffer));
    return buffer;
}

}  // namespace

void drain_buffer_pools() {
    while (Chunk* chunk = chunks.pop()) std::free(chunk);
    while (buffers.free) std::free(take_buffer());
}

Chunk* Chunk::take() {
    Chunk* chunk = chunks.pop();
    if (!chunk) {
        count_heap_allocation();
        void* memory = std::malloc(sizeof(Chunk) + capacity);
        if (!memory) out_of_memory(capacity);
        chunk = ::new (memory) Chunk;
    }
    chunk->references = 1;
    chunk->used = 0;
    chunk->release = recycle;
    return chunk;
}

void Chunk::recycle(Owner* owner) {
    auto* chunk = static_cast<Chunk*>(owner);
    if (chunks.count >= pooled_chunks_max) {
        std::free(chunk);
        return;
    }
    chunks.push(chunk);
}

OpenFile* OpenFile::adopt(int fd) {
    auto* file = new OpenFile;
    file->fd = fd;
    file->release = release_file;
    return file;
}

void Chain::link(Buffer* buffer) {
    buffer->next = nullptr;
    (tail_ ? tail_->next : head_) = buffer;
    tail_ = buffer;
}

Buffer& Chain::add(Slice bytes, Owner* owner, uint8_t flags) {
    Buffer* buffer = take_buffer();
    *buffer = {nullptr, bytes.data(), bytes.data() + bytes.size(), owner, 0, 0, flags};
    link(buffer);
    return *buffer;
}

char* Chain::reserve_new() {
    Chunk* chunk = Chunk::take();
    add({chunk->data(), 0}, chunk);
    return chunk->data();
}

void Chain::add_copy(Slice bytes) {
    while (!bytes.empty()) {
        Chunk* chunk = writable_tail();
        size_t room = chunk && chunk->room() ? chunk->room() : Chunk::capacity;
        size_t part = std::min(bytes.size(), room);
        std::memcpy(reserve(part), bytes.data(), part);
        commit(part);
        bytes.remove_prefix(part);
    }
}

Buffer& Chain::add_file(OpenFile* file, int64_t from, int64_t to) {
    Buffer* buffer = take_buffer();
    *buffer = {nullptr, nullptr, nullptr, file, from, to, Buffer::file};
    link(buffer);
    return *buffer;
}

void Chain::append(Chain&& more) {
    if (!more.head_) return;
    (tail_ ? tail_->next : head_) = more.head_;
    tail_ = more.tail_;
    more.head_ = more.tail_ = nullptr;
}

Buffer* Chain::pop() {
    Buffer* first = head_;
    if (!first) return nullptr;
    head_ = first->next;
    if (!head_) tail_ = nullptr;
    first->next = nullptr;
    return first;
}

void Chain::push_front(Buffer* buffer) {
    buffer->next = head_;
    head_ = buffer;
    if (!tail_) tail_ = buffer;
}

void Chain::release(Buffer* buffer) {
    if (buffer->owner) buffer->owner->drop();
    if (buffers.count >= pooled_buffers_max) {
        std::free(buffer);
        return;
    }
    buffer->next = buffers.free;
    buffers.free = buffer;
    ++buffers.count;
}

void Chain::consume(int64_t bytes) {
    while (Buffer* first = head_) {
        int64_t size = first->size();
        if (size > bytes) {
            if (first->is_file()) {
                first->file_begin += bytes;
            } else {
                first->begin += bytes;
            }
            return;
        }
        bytes -= size;
        release(pop());
    }
}

int64_t Chain::bytes() const {
    int64_t total = 0;
    for (Buffer* at = head_; at; at = at->next) total += at->size();
    return total;
}

void Chain::clear() {
    while (Buffer* buffer = pop()) release(buffer);
}

}  // namespace core
