// The event loop of one thread: readiness of descriptors (edge-triggered), timers, and work queued
// for the end of the turn. One reactor per worker; epoll on Linux, kqueue elsewhere, chosen at
// build.
//
// A turn: wait → ready descriptors → timers → queued work, then flushes, then destructions, each
// queue until empty. Nothing is destroyed inside its own callback: it queues itself to be
// destroyed.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "core/list.h"
#include "core/result.h"
#include "core/timer.h"

namespace core {

class Reactor;

enum Ready : uint8_t {
    ready_read = 1,
    ready_write = 2,
    ready_hangup = 4,    // the peer closed its side, or an error is pending
};

// What the reactor calls when a descriptor is ready. Called only from the loop; it may unwatch or
// close anything, but must not destroy itself (queue that with Reactor::at_end).
class IoHandler {
  public:
    virtual void on_io(uint8_t ready) = 0;

  protected:
    ~IoHandler() = default;
};

// A registration: a slot of the reactor's table. Events carry {slot, generation}, so an event that
// was already on its way when the watch ended finds nothing. Ends with the object.
class Watch {
  public:
    enum Mode : uint8_t { edge, level_read, level_read_exclusive };

    Watch() = default;
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() { stop(); }

    // Watches fd for both directions (edge) or reading (level); the descriptor must stay open until
    // stop(). Fails when the kernel refuses.
    Result<void> start(int fd, IoHandler& handler, Mode mode = edge);
    void stop();
    // Goes on with what `from` watches, which watches nothing any more: no system call.
    void take_over(Watch& from, IoHandler& handler);
    // For a descriptor that is about to be closed: forgets it without a system call.
    void stop_closing();
    bool active() const { return fd_ >= 0; }

  private:
    int fd_ = -1;
    uint32_t slot_ = 0;
};

// A unit of work for the end of the turn. Unlinks itself when destroyed.
class Deferred : public ListNode {
  public:
    using Run = void (*)(void* argument);
    Deferred(Run run, void* argument) : run_(run), argument_(argument) {}

  private:
    friend class Reactor;
    Run run_;
    void* argument_;
};

class Reactor {
  public:
    enum Stage : uint8_t { work, flush, destroy };
    static constexpr int stages = 3;

    static Result<void> open();        // makes this thread's reactor
    static void close();
    static Reactor& current();         // the open one of this thread

    // Runs turns until stop().
    void run();
    void turn(int64_t wait_limit_ms);  // one turn; -1: as long as nothing happens
    void stop() { running_ = false; }

    // Queues for the end of this turn (or the next, when called outside one). Queueing what is
    // queued already does nothing. Within a stage first in, first out; a later stage runs when the
    // earlier ones are empty.
    void at_end(Stage stage, Deferred& item) {
        if (!item.linked()) queues_[stage].push_back(item);
    }

    // From any thread: runs `job` in the loop soon.
    void post(std::function<void()> job);

    // From now on the time that each turn takes, from its events to its end, is counted in there
    // (core/histogram.h). Null: no longer.
    void count_turns(std::atomic<int64_t>* histogram) { turn_histogram_ = histogram; }
    uint64_t turns() const { return turns_; }
    TimerWheel& timers() { return timers_; }

  private:
    friend class Watch;
    struct Slot {
        IoHandler* handler;
        uint32_t generation;
        uint32_t next_free;
    };

    Reactor() = default;
    Result<void> open_backend();
    void close_backend();
    void wait(int64_t timeout_ms);     // backend: waits and dispatches
    Result<void> add(int fd, uint32_t slot, Watch::Mode mode);
    void remove(int fd);
    void dispatch(uint64_t token, uint8_t ready);
    uint32_t take_slot(IoHandler& handler);
    void free_slot(uint32_t slot);
    void woke_up();                    // by the backend, when waiting is over
    void run_queues();
    void run_posted();

    int backend_fd_ = -1;
    int wake_fd_ = -1;                 // eventfd, or the pipe's read end
    int wake_write_fd_ = -1;
    bool running_ = false;
    std::vector<Slot> table_;
    uint32_t free_slots_ = UINT32_MAX;
    List<Deferred> queues_[stages];
    TimerWheel timers_;
    std::mutex posted_mutex_;
    std::vector<std::function<void()>> posted_;
    std::atomic<bool> woken_ = false;
    std::atomic<int64_t>* turn_histogram_ = nullptr;
    uint64_t woke_ = 0;                // ticks at which this turn's events came
    uint64_t turns_ = 0;
};

}  // namespace core
