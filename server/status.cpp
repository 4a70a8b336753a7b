// The shared counters: an anonymous mapping that forked workers inherit.
#include "server/status.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <new>

#include "core/log.h"
#include "core/text.h"

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

void clear_slot(int slot) {
    WorkerCounters& counters = shared_status().workers[slot];
    for (auto* gauge : {&counters.active, &counters.reading, &counters.writing}) {
        gauge->store(0, std::memory_order_relaxed);
    }
    counters.pid.store(0, std::memory_order_relaxed);
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
