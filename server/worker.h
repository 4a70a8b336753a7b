// Worker: one process's loop and everything that hangs off it. There is one per process.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/list.h"
#include "core/reactor.h"
#include "core/result.h"

namespace core {
class Resolver;
class ThreadPool;
}

namespace server {

class Configuration;
class Connection;
class Listener;

// Counters of one worker, in memory shared with the others. Written only by their worker, without
// locks.
struct alignas(64) WorkerCounters {
    std::atomic<uint64_t> accepted{0}, handled{0}, requests{0};
    std::atomic<int64_t> active{0}, reading{0}, writing{0};
    std::atomic<int> pid{0};              // the worker's process; 0: none
};

// Adds to a counter of this worker's own. Nobody else writes it: no locked instruction is needed.
template <class T>
void bump(std::atomic<T>& counter, T by = 1) {
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
}

// The sums over all workers, past ones included (stub_status).
struct StatusTotals {
    uint64_t accepted = 0, handled = 0, requests = 0;
    int64_t active = 0, reading = 0, writing = 0;
    int64_t waiting = 0;                  // open, and neither of the two
};
StatusTotals status_totals();

// The process ids of the workers alive, those of older configurations too: at most `max` of them.
// Returns how many.
size_t worker_pids(int* pids, size_t max);

// Adds to a counter of this worker alone: nobody else writes it, so no locked instruction.
enum class ProcessType : uint8_t { single, master, signaller, worker, privileged_agent };
ProcessType process_type();
pid_t master_pid();

class Worker {
  public:
    enum class Exit : uint8_t { running, graceful, fast };

    // The worker of this process; null in the master.
    static Worker* current();

    // `slot`: which counters are its own (server/status.h).
    Worker(Configuration& configuration, int id, int slot = 0);
    ~Worker();

    core::Result<void> open();            // the loop, the modules' init_worker, then the listeners
    void run();                           // until told to leave; then modules' exit_worker

    // QUIT: stops accepting, closes idle connections after their grace, leaves when the last
    // connection and timer are done or worker_shutdown_timeout has passed. TERM: leaves at once.
    void leave(Exit how);
    bool leaving() const { return exit_ != Exit::running; }
    // As if worker_shutdown_timeout had passed, in a worker that leaves gracefully.
    void hurry();

    Configuration& configuration;
    const int id;                         // 0…; -1 for helpers such as a privileged agent
    core::List<Connection> connections;
    uint64_t connection_count = 0;
    uint64_t connections_max = 512;       // worker_connections
    WorkerCounters& counters;
    core::Resolver& resolver();           // the system's, opened on first use
    core::ThreadPool* thread_pool(const char* name);   // null when there is no such pool

    // Called by a connection as it begins, and as it ends (frees a place; wakes paused listeners).
    void connection_began(Connection& connection);
    // One that goes on with another's socket: not a new one.
    void connection_taken_over(Connection& connection);
    void connection_ended(Connection& connection);
    // Something besides connections that a graceful exit waits for (a running timer).
    void hold() { ++holds_; }
    void release() { --holds_; check_exit(); }
    uint64_t next_serial();               // connection numbers, unique over workers

    // The machine refused a descriptor or a place: pause accepting, close idle connections.
    void pressure();

  private:
    void check_exit();
    void report_leftovers();
    core::Result<void> open_listeners();
    void stop_listening();
    void end_connections();
    bool ending_ = false;                 // worker_shutdown_timeout has passed

    Exit exit_ = Exit::running;
    uint64_t holds_ = 0;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::shared_ptr<core::Resolver> resolver_;
    std::vector<std::pair<std::string, std::shared_ptr<core::ThreadPool>>> pools_;
    std::unique_ptr<core::Timer> shutdown_timer_;
};

}  // namespace server
