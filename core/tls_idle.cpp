// The pages, OpenSSL's way to them, and putting aside. One region of address space is reserved and
// cut into slots; memory comes with use, and goes with MADV_DONTNEED.
#include "core/tls_idle.h"

#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "core/pools.h"
#include "core/timer.h"

namespace core {

namespace {

constexpr size_t region_bytes = size_t(1) << 30;    // of address space: for 131,072 connections
constexpr size_t warm_max = 256;                    // free slots that keep their memory
constexpr size_t page_bytes_max = 4096;
constexpr size_t object_bytes_min = 4096, object_bytes_max = 64 * 1024;

class Slots {
  public:
    // For objects of this size, from now on. Called once; nothing happens where pages are so large
    // that objects of their own would cost more than idle ones save, or without address space.
    void open(size_t object_bytes) {
        opened_ = true;
        size_t page = size_t(::sysconf(_SC_PAGESIZE));
        if (page > page_bytes_max) return;
        slot_bytes_ = (object_bytes + page - 1) / page * page;
        void* region = ::mmap(nullptr, region_bytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (region == MAP_FAILED) return;
#ifdef MADV_NOHUGEPAGE
        ::madvise(region, region_bytes, MADV_NOHUGEPAGE);
#endif
        // OpenSSL may ask from other threads: what they see first is the region, then the size.
        begin_.store(reinterpret_cast<uintptr_t>(region), std::memory_order_release);
        object_bytes_.store(object_bytes, std::memory_order_release);
    }
    bool opened() const { return opened_; }

    size_t object_bytes() const { return object_bytes_.load(std::memory_order_acquire); }

    // One comparison: until there is a region nothing is as near behind `nowhere`.
    bool has(const void* block) const {
        uintptr_t begin = begin_.load(std::memory_order_acquire);
        return reinterpret_cast<uintptr_t>(block) - begin < region_bytes;
    }

    void* take() {
        std::lock_guard lock(mutex_);
        for (auto* from : {&warm_, &cold_}) {
            if (from->empty()) continue;
            void* slot = from->back();
            from->pop_back();
            return slot;
        }
        if (fresh_ + slot_bytes_ > region_bytes) return nullptr;
        fresh_ += slot_bytes_;
        return reinterpret_cast<void*>(begin_.load(std::memory_order_relaxed) + fresh_ -
                                       slot_bytes_);
    }

    void give_back(void* slot) {
        std::lock_guard lock(mutex_);
        if (warm_.size() < warm_max) return warm_.push_back(slot);
        empty(slot);
        cold_.push_back(slot);
    }

    void drain() {
        std::lock_guard lock(mutex_);
        for (void* slot : warm_) empty(slot);
        cold_.insert(cold_.end(), warm_.begin(), warm_.end());
        warm_.clear();
    }

    // Who holds the object of a slot. For the loop's thread.
    TlsHandle*& holder(const void* slot) {
        size_t at = (reinterpret_cast<uintptr_t>(slot) - begin_.load()) / slot_bytes_;
        if (at >= holders_.size()) holders_.resize(at + 1);
        return holders_[at];
    }

    // The slot reads as zeros from here on.
    void empty(void* slot) { ::madvise(slot, slot_bytes_, MADV_DONTNEED); }

  private:
    static constexpr uintptr_t nowhere = uintptr_t(1) << 63;
    std::atomic<uintptr_t> begin_{nowhere};
    std::atomic<size_t> object_bytes_{0};
    bool opened_ = false;
    size_t slot_bytes_ = 0;
    size_t fresh_ = 0;                              // slots behind this were never taken
    std::vector<void*> warm_, cold_;
    std::vector<TlsHandle*> holders_;
    std::mutex mutex_;
};

// Never destroyed: OpenSSL frees memory as late as it likes. And there from the start: each of its
// requests for memory looks here, and a handshake makes a thousand.
union Lasting {
    Slots slots;
    constexpr Lasting() : slots{} {}
    ~Lasting() {}
};
constinit Lasting lasting;

Slots& slots() { return lasting.slots; }

// The size of an SSL is found out by the first that is made: it is what SSL_new() asks for first.
thread_local size_t* first_size_asked = nullptr;

void* allocate(size_t bytes, const char*, int) {
    size_t special = slots().object_bytes();
    if (bytes == special && bytes) [[unlikely]] {
        if (void* slot = slots().take()) return slot;
    } else if (special == 0 && first_size_asked) [[unlikely]] {
        *first_size_asked = bytes;
        first_size_asked = nullptr;
    }
    return std::malloc(bytes);
}

void release(void* block, const char*, int) {
    if (slots().has(block)) [[unlikely]] return slots().give_back(block);
    std::free(block);
}

void* reallocate(void* block, size_t bytes, const char* file, int line) {
    if (!slots().has(block)) return std::realloc(block, bytes);
    void* moved = bytes ? std::malloc(bytes) : nullptr;
    if (bytes && !moved) return nullptr;
    if (moved) std::memcpy(moved, block, std::min(bytes, slots().object_bytes()));
    release(block, file, line);
    return moved;
}

bool installed = false;

// A copy: one bit for each word of the object, then the words that are not zero.
struct Packed {
    size_t words;                                   // that follow the bits
    uint64_t data[];
};

size_t object_words() { return slots().object_bytes() / sizeof(uint64_t); }
size_t bit_words() { return (object_words() + 63) / 64; }

size_t packed_bytes(size_t words) {
    return sizeof(Packed) + (bit_words() + words) * sizeof(uint64_t);
}

// Null: out of memory. Objects whose size is no number of words are not handled at all.
Packed* pack(const void* object) {
    auto* from = static_cast<const uint64_t*>(object);
    size_t count = object_words(), used = 0;
    for (size_t i = 0; i < count; ++i) used += from[i] != 0;
    auto* made = static_cast<Packed*>(std::calloc(1, packed_bytes(used)));
    if (!made) return nullptr;
    made->words = used;
    uint64_t* to = made->data + bit_words();
    for (size_t i = 0; i < count; ++i) {
        if (!from[i]) continue;
        made->data[i / 64] |= uint64_t(1) << (i % 64);
        *to++ = from[i];
    }
    return made;
}

void unpack(const Packed& packed, void* object) {
    auto* to = static_cast<uint64_t*>(object);
    const uint64_t* from = packed.data + bit_words();
    for (size_t i = 0; i < bit_words(); ++i) {
        for (uint64_t bits = packed.data[i]; bits; bits &= bits - 1) {
            to[i * 64 + size_t(__builtin_ctzll(bits))] = *from++;
        }
    }
}

void discard(void* aside) {
    auto* packed = static_cast<Packed*>(aside);
    OPENSSL_cleanse(packed, packed_bytes(packed->words));   // there are keys in it
    std::free(packed);
}

TlsIdle* current = nullptr;

}  // namespace

void drain_tls_pages() { slots().drain(); }

// Handles looked at in one go: some 500 microseconds if all of them are put aside.
constexpr int piece = 128;
constexpr int64_t pause_ms = 1;

struct TlsIdle::State {
    List<TlsHandle> awake;
    List<TlsHandle> due;                            // of them, those still to be looked at
    int64_t period_ms;
    Timer timer;

    void add(TlsHandle& handle) {
        awake.push_back(handle);
        if (!timer.pending()) timer.set(period_ms);
    }
};

bool TlsIdle::install() {
    installed = CRYPTO_set_mem_functions(allocate, reallocate, release) == 1;
    return installed;
}

TlsIdle::TlsIdle(int64_t period_ms)
    : state_(new State{{}, {}, period_ms, Timer([](void* it) { static_cast<TlsIdle*>(it)->look(); },
                                            this)}) {
    current = this;
}

TlsIdle::~TlsIdle() { current = nullptr; }

void TlsIdle::look() {
    State& all = *state_;
    if (all.due.empty()) all.due.take_all(all.awake);
    for (int i = 0; i < piece && !all.due.empty(); ++i) {
        TlsHandle& handle = *all.due.pop_front();
        bool idle = !std::exchange(handle.used_, false) && SSL_is_init_finished(handle.ssl_);
        if (idle) handle.aside_ = pack(handle.ssl_);
        if (handle.aside_) slots().empty(handle.ssl_);
        else all.awake.push_back(handle);
    }
    if (!all.due.empty()) all.timer.set(pause_ms);
    else if (!all.awake.empty()) all.timer.set(all.period_ms);
}

bool TlsHandle::make(ssl_ctx_st* context) {
    size_t learned = 0;
    if (installed && !slots().opened()) first_size_asked = &learned;
    ssl_ = SSL_new(context);
    first_size_asked = nullptr;
    bool sound = learned >= object_bytes_min && learned <= object_bytes_max && learned % 8 == 0;
    if (sound) slots().open(learned);
    if (ssl_ && current && slots().has(ssl_)) {
        slots().holder(ssl_) = this;
        current->state_->add(*this);
        used_ = true;
    }
    return ssl_ != nullptr;
}

void TlsHandle::bring_back() const {
    unpack(*static_cast<Packed*>(aside_), ssl_);
    discard(std::exchange(aside_, nullptr));
    if (current) current->state_->add(const_cast<TlsHandle&>(*this));
}

ssl_st* TlsHandle::awake(ssl_st* shared) {
    TlsHandle* handle = shared && slots().has(shared) ? slots().holder(shared) : nullptr;
    return handle ? static_cast<ssl_st*>(*handle) : shared;
}

TlsHandle::~TlsHandle() {
    if (aside_) bring_back();
    if (ssl_ && slots().has(ssl_)) slots().holder(ssl_) = nullptr;
    SSL_free(ssl_);
}

}  // namespace core
