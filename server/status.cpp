// The shared counters: an anonymous mapping that forked workers inherit.
#include "server/status.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "core/clock.h"
#include "core/log.h"
#include "core/text.h"
#include "server/metrics.h"

namespace server {

namespace {
SharedStatus* status = nullptr;
}

core::Result<void> open_status() {
    void* memory = ::mmap(nullptr, sizeof(SharedStatus), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return core::Error{core::format("mmap(%zu) failed (%d: %s)", sizeof(SharedStatus), errno,
                                        core::error_name(errno))};
    }
    status = new (memory) SharedStatus;
    return {};
}

// Unit tests and tools that never called open_status() get one of their own.
SharedStatus& shared_status() {
    if (!status) status = new SharedStatus;
    return *status;
}

void note_configuration(ConfigurationEvent event, core::Slice error) {
    SharedStatus& shared = shared_status();
    ReloadStatus& reloads = shared.reloads;
    uint32_t version = shared.reloads_version.load(std::memory_order_relaxed) | 1;
    shared.reloads_version.store(version, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_release);
    reloads.count += event != ConfigurationEvent::started;
    reloads.last_ok = event != ConfigurationEvent::refused;
    reloads.failed += !reloads.last_ok;
    reloads.last_ms = core::Clock::wall_ms();
    if (reloads.last_ok) {
        reloads.last_success_ms = reloads.last_ms;
        reloads.generation += event != ConfigurationEvent::unchanged;
    }
    size_t size = std::min(error.size(), sizeof reloads.last_error - 1);
    std::memcpy(reloads.last_error, error.data(), size);
    reloads.last_error[size] = '\0';
    shared.reloads_version.store(version + 1, std::memory_order_release);
}

// The master writes seldom, and a worker never waits for it: what is torn is read again a few
// times.
ReloadStatus reload_status() {
    SharedStatus& shared = shared_status();
    ReloadStatus copy;
    for (int tries = 0; tries < 100; ++tries) {
        uint32_t version = shared.reloads_version.load(std::memory_order_acquire);
        std::memcpy(&copy, &shared.reloads, sizeof copy);
        std::atomic_thread_fence(std::memory_order_acquire);
        bool whole = !(version & 1) &&
                     version == shared.reloads_version.load(std::memory_order_relaxed);
        if (whole) break;
    }
    copy.last_error[sizeof copy.last_error - 1] = '\0';
    return copy;
}

void clear_slot(int slot) {
    WorkerCounters& counters = shared_status().workers[slot];
    for (auto* gauge : {&counters.active, &counters.reading, &counters.writing}) {
        gauge->store(0, std::memory_order_relaxed);
    }
    counters.pid.store(0, std::memory_order_relaxed);
    clear_metric_gauges(slot);
}

StatusTotals status_totals() {
    StatusTotals totals;
    for (const WorkerCounters& worker : shared_status().workers) {
        totals.accepted += worker.accepted.load(std::memory_order_relaxed);
        totals.handled += worker.handled.load(std::memory_order_relaxed);
        totals.requests += worker.requests.load(std::memory_order_relaxed);
        totals.active += worker.active.load(std::memory_order_relaxed);
        totals.reading += worker.reading.load(std::memory_order_relaxed);
        totals.writing += worker.writing.load(std::memory_order_relaxed);
    }
    totals.waiting = std::max<int64_t>(totals.active - totals.reading - totals.writing, 0);
    return totals;
}

size_t worker_pids(int* pids, size_t max) {
    size_t count = 0;
    for (const WorkerCounters& worker : shared_status().workers) {
        int pid = worker.pid.load(std::memory_order_relaxed);
        if (pid && count < max) pids[count++] = pid;
    }
    return count;
}

}  // namespace server
