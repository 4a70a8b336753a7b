// The loop that both backends share: slots, queues, posted jobs, turns.
#include "core/reactor.h"

#include <utility>

#include "core/clock.h"
#include "core/histogram.h"
#include "core/ticks.h"

namespace core {

namespace {
constinit thread_local Reactor* reactor = nullptr;   // owned; freed by close()
}

Result<void> Reactor::open() {
    close();   // a forked worker makes its own
    reactor = new Reactor;
    Clock::update();
    return reactor->open_backend();
}

void Reactor::close() {
    if (!reactor) return;
    reactor->close_backend();
    delete reactor;
    reactor = nullptr;
}

Reactor& Reactor::current() { return *reactor; }

void Reactor::run() {
    running_ = true;
    while (running_) turn(-1);
}

void Reactor::turn(int64_t wait_limit_ms) {
    bool queued = false;
    for (auto& queue : queues_) queued |= !queue.empty();
    int64_t wait_for = timers_.wait_ms(Clock::monotonic_ms());
    if (wait_limit_ms >= 0 && (wait_for < 0 || wait_for > wait_limit_ms)) wait_for = wait_limit_ms;
    wait(queued ? 0 : wait_for);
    timers_.advance(Clock::monotonic_ms());
    run_queues();
    ++turns_;
    if (turn_histogram_) histogram::observe(turn_histogram_, Ticks::ns_since(woke_));
}

void Reactor::woke_up() {
    Clock::update();
    if (turn_histogram_) woke_ = Ticks::now();
}

void Reactor::run_queues() {
    // Work that work queues is done in this turn as well: a subrequest would otherwise cost a
    // system call for each step. But only so many rounds of it: a thread which always has more to
    // do cannot starve descriptors.
    constexpr int work_rounds_max = 8;
    for (int stage = 0; stage < stages; ++stage) {
        int rounds = stage == work ? work_rounds_max : 1;
        while (rounds-- > 0 && !queues_[stage].empty()) {
            List<Deferred> round;
            round.take_all(queues_[stage]);
            while (Deferred* item = round.pop_front()) item->run_(item->argument_);
        }
    }
}

void Reactor::dispatch(uint64_t token, uint8_t ready) {
    uint32_t slot = uint32_t(token);
    uint32_t generation = uint32_t(token >> 32);
    if (slot >= table_.size() || table_[slot].generation != generation) return;
    if (IoHandler* handler = table_[slot].handler) handler->on_io(ready);
}

uint32_t Reactor::take_slot(IoHandler& handler) {
    uint32_t slot = free_slots_;
    if (slot == UINT32_MAX) {
        slot = uint32_t(table_.size());
        table_.push_back({nullptr, 0, UINT32_MAX});
    } else {
        free_slots_ = table_[slot].next_free;
    }
    table_[slot].handler = &handler;
    return slot;
}

void Reactor::free_slot(uint32_t slot) {
    table_[slot].handler = nullptr;
    ++table_[slot].generation;
    table_[slot].next_free = free_slots_;
    free_slots_ = slot;
}

Result<void> Watch::start(int fd, IoHandler& handler, Mode mode) {
    stop();
    Reactor& loop = Reactor::current();
    slot_ = loop.take_slot(handler);
    auto added = loop.add(fd, slot_, mode);
    if (!added) {
        loop.free_slot(slot_);
        return added;
    }
    fd_ = fd;
    return {};
}

void Watch::take_over(Watch& from, IoHandler& handler) {
    stop();
    if (from.fd_ < 0) return;
    fd_ = std::exchange(from.fd_, -1);
    slot_ = from.slot_;
    Reactor::current().table_[slot_].handler = &handler;
}

void Watch::stop() {
    if (fd_ < 0) return;
    Reactor& loop = Reactor::current();
    loop.remove(fd_);
    loop.free_slot(slot_);
    fd_ = -1;
}

void Watch::stop_closing() {
    if (fd_ < 0) return;
    Reactor::current().free_slot(slot_);
    fd_ = -1;
}

void Reactor::run_posted() {
    woken_.store(false, std::memory_order_release);
    std::vector<std::function<void()>> jobs;
    {
        std::lock_guard lock(posted_mutex_);
        jobs.swap(posted_);
    }
    for (auto& job : jobs) job();
}

}  // namespace core
