// The memory that all processes of one server share: each worker's counters, and the number of the
// next connection. Made by main before anything is forked; survives reloads.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/result.h"
#include "core/slice.h"
#include "server/worker.h"

namespace server {

// How far the server as a whole is: what readiness probes ask.
enum class ServerState : int { starting, ready, stopping };

// What became of reloads. Written by the master.
struct ReloadStatus {
    int64_t count = 0, failed = 0;
    int64_t last_ms = 0, last_success_ms = 0;    // wall clock
    int64_t generation = 0;                      // configurations in force since the start
    bool last_ok = true;
    char last_error[1024] = {};                  // empty when the last one worked
};

struct SharedStatus {
    static constexpr int slots = 1024;

    std::atomic<ServerState> state{ServerState::starting};
    std::atomic<uint64_t> next_serial{1};
    WorkerCounters workers[slots];
    std::atomic<uint32_t> reloads_version{0};    // odd while they are being written
    ReloadStatus reloads;
};

core::Result<void> open_status();
SharedStatus& shared_status();

// By the master: the first configuration is in force; a reload changed it, found it unchanged, or
// was refused with an error.
enum class ConfigurationEvent : uint8_t { started, changed, unchanged, refused };
void note_configuration(ConfigurationEvent event, core::Slice error = {});
ReloadStatus reload_status();

// A worker that used this slot is gone: what it counted stays, what it held is no more.
void clear_slot(int slot);

}  // namespace server
