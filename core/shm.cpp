// Shared-memory zones: mapping, registry, and the lock that outlives its holder.
#include "core/shm.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdlib>
#include <vector>

#include "core/log.h"
#include "core/text.h"

namespace core {

namespace {

// The master's zones that some configuration still holds.
std::vector<std::weak_ptr<ShmZone>>& living_zones() {
    static auto& zones = *new std::vector<std::weak_ptr<ShmZone>>;
    return zones;
}

constexpr size_t slab_offset(size_t header_bytes) { return (header_bytes + 63) & ~size_t(63); }

}  // namespace

void ShmMutex::init() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex_, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

bool ShmMutex::lock() {
    int error = pthread_mutex_lock(&mutex_);
    if (error == 0) [[likely]] return false;
    if (error == EOWNERDEAD) return true;
    // ENOTRECOVERABLE: a process died while it was repairing. Nothing can be said of the contents,
    // and going on without the lock would only spread that.
    LOG(process_log(), emerg, error, "pthread_mutex_lock() failed");
    std::abort();
}

Result<std::shared_ptr<ShmZone>> ShmZone::find_or_create(Slice name, size_t bytes,
                                                         const void* tag) {
    auto& zones = living_zones();
    std::erase_if(zones, [](auto& zone) { return zone.expired(); });
    for (auto& known : zones) {
        auto zone = known.lock();
        if (zone->name_ == name && zone->bytes_ == bytes && zone->tag_ == tag) return zone;
    }
    std::shared_ptr<ShmZone> zone(new ShmZone);
    void* memory =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        int error = errno;
        return Error{format("mmap(MAP_ANON|MAP_SHARED, %zu) failed (%d: %s)", bytes, error,
                            error_name(error))};
    }
    zone->memory_ = memory;
    zone->name_ = name;
    zone->bytes_ = bytes;
    zone->tag_ = tag;
    zone->header()->mutex.init();
    zone->wipe();
    if (!zone->slab_) {
        return Error{format("shared memory zone \"%s\" is too small", zone->name_.c_str())};
    }
    zones.push_back(zone);
    return zone;
}

ShmZone::~ShmZone() {
    if (memory_) ::munmap(memory_, bytes_);
}

void ShmZone::wipe() {
    header()->root = nullptr;
    size_t offset = slab_offset(sizeof(Header));
    slab_ = bytes_ > offset ? Slab::create(static_cast<char*>(memory_) + offset, bytes_ - offset)
                            : nullptr;
}

void ShmZone::repair() {
    LOG(process_log(), alert, 0, "a process died holding the lock of shared memory zone \"%s\"",
        name_.c_str());
    if (repair_) repair_(*this);
    header()->mutex.recovered();
}

void* ShmZone::allocate(size_t bytes) {
    ShmLock lock(*this);
    return slab_->allocate(bytes);
}

bool ShmZone::free(void* memory) {
    ShmLock lock(*this);
    return slab_->free(memory);
}

}  // namespace core
