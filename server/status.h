// The memory that all processes of one server share: each worker's counters, and the number of the
// next connection. Made by main before anything is forked; survives reloads.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/result.h"
#include "server/worker.h"

namespace server {

// How far the server as a whole is: what readiness probes ask.
enum class ServerState : int { starting, ready, stopping };

struct SharedStatus {
    static constexpr int slots = 1024;

    std::atomic<ServerState> state{ServerState::starting};
    std::atomic<uint64_t> next_serial{1};
    WorkerCounters workers[slots];
};

core::Result<void> open_status();
SharedStatus& shared_status();

// A worker that used this slot is gone: what it counted stays, what it held is no more.
void clear_slot(int slot);

}  // namespace server
