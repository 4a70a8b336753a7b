// Memory shared by the master and its workers: named zones with an allocator inside and a lock that
// survives the death of its holder. The master makes zones before it forks, so a pointer into one
// is good in every process. A zone lives on across a reload when name, size and tag are the same.
//
// Used by shared dictionaries, limit_req and limit_conn, upstream zones and status counters.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <span>
#include <string>

#include "core/result.h"
#include "core/slice.h"

namespace core {

// A mutex in shared memory. When a process dies holding it, the next one to lock is told so.
class ShmMutex {
  public:
    void init();                     // once, by the process that makes the memory
    // True: the last holder died inside; what the lock protects may be half changed. The caller has
    // the lock, and must call recovered() before it unlocks.
    [[nodiscard]] bool lock();
    void recovered() { pthread_mutex_consistent(&mutex_); }
    void unlock() { pthread_mutex_unlock(&mutex_); }

  private:
    pthread_mutex_t mutex_;
};

// An allocator inside a run of shared memory, which it lies at the beginning of. Sizes up to half a
// page come from pages cut into slots of a power of two, larger ones are runs of whole pages; free
// runs join their neighbours. Takes no lock: its zone's is held by whoever calls.
class Slab {
  public:
    static constexpr size_t page_bytes = 4096;
    static constexpr size_t slot_bytes_max = page_bytes / 2;

    // Makes an empty slab at `memory`, which is aligned to a page. Null when that is too small.
    static Slab* create(void* memory, size_t bytes);
    void reset();                    // forgets everything allocated

    void* allocate(size_t bytes);    // aligned to its size up to a page; null when full
    // False when `memory` is nothing that was allocated here: nothing happens then.
    bool free(void* memory);
    size_t size_of(const void* memory) const;   // usable bytes; 0 as above

    size_t free_page_bytes() const { return size_t(free_pages_) * page_bytes; }
    size_t total_page_bytes() const { return size_t(pages_) * page_bytes; }
    // Bytes handed out, rounded up to slots and pages.
    size_t used_bytes() const { return used_bytes_; }
    uint64_t failures() const { return failures_; }

    // Whether all lists and counts agree: after a process died in here. Takes time with the size.
    bool check() const;
    // Makes everything free but the allocations in `live`, sorted by address, each of which was
    // made here (size_of() is not 0). They stay untouched, and known to size_of(), at every moment:
    // a process may be killed in here as well.
    void rebuild(std::span<const void* const> live);

  private:
    static constexpr int shift_min = 3, shift_max = 11, classes = shift_max - shift_min + 1;
    static constexpr int bins = 64;             // free runs of 1 … 63 pages; the last bin: longer
    static constexpr uint32_t no_page = UINT32_MAX;
    static constexpr uint16_t no_slot = UINT16_MAX;

    enum Kind : uint8_t { idle, slots, run, inside };
    struct Page {
        uint32_t next, prev;       // in its bin, or among the pages of its class with room
        uint32_t length;           // of the run it begins; a free run's last page has it too
        uint16_t free_slot;        // the first slot given back, in slots
        uint16_t fresh_slot;       // slots from here on were never used
        uint16_t used_slots;
        Kind kind;
        uint8_t shift;             // of the slot size
    };
    struct Spot {
        uint32_t page = no_page;
        uint32_t slot = 0;
    };

    Slab() = default;
    static int class_of(size_t bytes);
    static int bin_of(uint32_t length) { return length < bins ? int(length) - 1 : bins - 1; }
    Page* table() { return reinterpret_cast<Page*>(this + 1); }
    const Page* table() const { return reinterpret_cast<const Page*>(this + 1); }
    char* page_at(uint32_t page) const { return base() + size_t(page) * page_bytes; }
    char* base() const;
    void link(uint32_t& head, uint32_t page);
    void unlink(uint32_t& head, uint32_t page);
    uint32_t take_run(uint32_t length);
    uint32_t find_run(uint32_t length) const;
    void add_free_run(uint32_t page, uint32_t length);
    void remove_free_run(uint32_t page);
    void give_run(uint32_t page, uint32_t length);
    void* take_slot(int index);
    Spot find(const void* memory) const;
    bool check_slots(uint32_t page) const;
    const void* const* rebuild_slots(uint32_t page, const void* const* at,
                                     const void* const* end);
    bool check_lists(uint32_t idle_runs, const uint32_t (&with_room)[classes]) const;

    size_t bytes_;
    uint32_t pages_;
    uint32_t free_pages_;
    size_t used_bytes_;
    uint64_t failures_;
    uint64_t bin_bits_;
    uint32_t bin_[bins];
    uint32_t with_room_[classes];
};

class ShmZone {
  public:
    // Finds the living zone of this name, size and tag, or makes one. `tag` is any address that
    // stands for what the zone is used as. Only in the master, before workers are forked. The zone
    // goes when its last holder (a configuration) does.
    static Result<std::shared_ptr<ShmZone>> find_or_create(Slice name, size_t bytes,
                                                           const void* tag);
    ~ShmZone();
    ShmZone(const ShmZone&) = delete;
    ShmZone& operator=(const ShmZone&) = delete;

    const std::string& name() const { return name_; }
    size_t bytes() const { return bytes_; }
    Slab& slab() const { return *slab_; }

    // What the user of the zone keeps in it: null in a new zone, kept across reloads.
    template <class T> T* root() const { return static_cast<T*>(header()->root); }
    void set_root(void* root) { header()->root = root; }

    // Called, in the process that finds it out and with the lock held, when another one died inside
    // the lock: make what is in the zone whole again (slab().check() tells about the allocator), or
    // empty it (wipe(), then a new root). Without one the zone is only reported.
    using Repair = std::function<void(ShmZone& zone)>;
    void on_owner_death(Repair repair) { repair_ = std::move(repair); }
    void wipe();

    void lock() {
        if (header()->mutex.lock()) [[unlikely]] repair();
    }
    void unlock() { header()->mutex.unlock(); }

    // With the lock taken for the one call.
    void* allocate(size_t bytes);
    bool free(void* memory);

    // With the lock held by the caller.
    void* allocate_locked(size_t bytes) { return slab_->allocate(bytes); }
    bool free_locked(void* memory) { return slab_->free(memory); }
    template <class T, class... Args>
    T* make_locked(Args&&... args) {
        void* room = slab_->allocate(sizeof(T));
        return room ? ::new (room) T(std::forward<Args>(args)...) : nullptr;
    }

  private:
    struct Header {
        ShmMutex mutex;
        void* root;
    };

    ShmZone() = default;
    Header* header() const { return static_cast<Header*>(memory_); }
    void repair();

    std::string name_;
    size_t bytes_ = 0;
    const void* tag_ = nullptr;
    void* memory_ = nullptr;
    Slab* slab_ = nullptr;
    Repair repair_;
};

// Holds a zone's lock for a scope.
class ShmLock {
  public:
    explicit ShmLock(ShmZone& zone) : zone_(zone) { zone_.lock(); }
    ~ShmLock() { zone_.unlock(); }
    ShmLock(const ShmLock&) = delete;
    ShmLock& operator=(const ShmLock&) = delete;

  private:
    ShmZone& zone_;
};

}  // namespace core
