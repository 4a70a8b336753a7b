// Threads for work that would block a loop: reading files from slow disks, hashing passwords,
// getaddrinfo. A pool has a fixed number of threads and a bounded queue; a job runs in one of them,
// and its completion runs in the loop that submitted it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "core/result.h"

namespace core {

// A submitted job. Destroying it (in the loop's thread) means its completion is not called; a job
// that has not begun is then not run either. Work that runs goes on: what it touches must be its
// own.
class Task {
  public:
    Task() = default;
    ~Task() { cancel(); }
    Task(Task&&) noexcept = default;
    Task& operator=(Task&& from) noexcept {
        if (this != &from) {
            cancel();
            state_ = std::move(from.state_);
        }
        return *this;
    }
    void cancel();
    bool pending() const;     // the completion is still to come

  private:
    friend class ThreadPool;
    struct State;
    std::shared_ptr<State> state_;
};

class ThreadPool {
  public:
    // Threads begin with the first job: a pool made before a fork works in the child.
    ThreadPool(std::string name, int threads, int queue_max);
    // Waits for what runs; what is queued is dropped, its completions are not called.
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    // From a thread with a reactor, which must outlive the pool. `work` runs in the pool: it may
    // touch nothing of the loop's. `done` then runs in the loop, never from inside submit(); it may
    // destroy the Task. Both are destroyed in the loop's thread. Fails when the queue is full:
    // `thread pool "x" queue overflow: 65536 tasks waiting`.
    Result<Task> submit(std::function<void()> work, std::function<void()> done);

    const std::string& name() const { return name_; }
    size_t waiting() const;
    // Is the caller the work of some pool? There the loop's cached clock may be old.
    static bool inside();

  private:
    struct Shared;
    Result<void> start();

    std::string name_;
    int threads_;
    std::shared_ptr<Shared> shared_;
};

}  // namespace core
