// The pool's threads, its queue, and the way back into the loop.
#include "core/threads.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/reactor.h"
#include "core/text.h"

namespace core {

static thread_local bool inside_a_pool = false;

bool ThreadPool::inside() { return inside_a_pool; }

// Shared by the Task, the queue, and the job posted back. The functions are only ever destroyed in
// the loop's thread: they may hold objects of the loop.
struct Task::State {
    std::function<void()> work;
    std::function<void()> done;
    Reactor* loop = nullptr;
    std::atomic<bool> cancelled{false};
};

void Task::cancel() {
    if (!state_) return;
    state_->cancelled.store(true, std::memory_order_release);
    state_->done = nullptr;
    state_.reset();
}

bool Task::pending() const { return state_ && state_->done; }

struct ThreadPool::Shared {
    using Job = std::shared_ptr<Task::State>;

    std::mutex mutex;
    std::condition_variable wanted;
    std::deque<Job> queue;
    std::vector<std::thread> threads;
    size_t queue_max = 0;
    bool closing = false;

    bool take(Job& job) {
        std::unique_lock lock(mutex);
        wanted.wait(lock, [&] { return closing || !queue.empty(); });
        if (closing) return false;
        job = std::move(queue.front());
        queue.pop_front();
        return true;
    }

    // Back in the loop: the only reference left may be this one.
    static void finish(const Job& job) {
        job->work = nullptr;
        if (job->cancelled.load(std::memory_order_acquire)) return;
        auto done = std::move(job->done);
        job->done = nullptr;
        if (done) done();
    }

    void serve() {
        inside_a_pool = true;
        Job job;
        while (take(job)) {
            if (!job->cancelled.load(std::memory_order_acquire)) job->work();
            Reactor* loop = job->loop;
            loop->post([job = std::move(job)] { finish(job); });
            job = nullptr;
        }
    }
};

ThreadPool::ThreadPool(std::string name, int threads, int queue_max)
    : name_(std::move(name)), threads_(threads), shared_(std::make_shared<Shared>()) {
    shared_->queue_max = size_t(queue_max);
}

ThreadPool::~ThreadPool() {
    {
        std::lock_guard lock(shared_->mutex);
        shared_->closing = true;
    }
    shared_->wanted.notify_all();
    for (std::thread& thread : shared_->threads) thread.join();
    shared_->queue.clear();
}

Result<void> ThreadPool::start() {
    // Signals are the main thread's: a pool thread never takes one.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    std::string failure;
    for (int i = 0; i < threads_ && failure.empty(); ++i) {
        try {
            shared_->threads.emplace_back([shared = shared_.get()] { shared->serve(); });
        } catch (const std::system_error& error) {
            failure = error.what();
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    // Fewer threads than asked for still serve.
    if (shared_->threads.empty()) return Error{"pthread_create() failed: " + failure};
    return {};
}

Result<Task> ThreadPool::submit(std::function<void()> work, std::function<void()> done) {
    if (shared_->threads.empty()) {
        if (auto started = start(); !started) return started.take_error();
    }
    auto state = std::make_shared<Task::State>();
    state->work = std::move(work);
    state->done = std::move(done);
    state->loop = &Reactor::current();
    {
        std::lock_guard lock(shared_->mutex);
        if (shared_->queue.size() >= shared_->queue_max) {
            return Error{format("thread pool \"%s\" queue overflow: %zu tasks waiting",
                                name_.c_str(), shared_->queue.size())};
        }
        shared_->queue.push_back(state);
    }
    shared_->wanted.notify_one();
    Task task;
    task.state_ = std::move(state);
    return task;
}

size_t ThreadPool::waiting() const {
    std::lock_guard lock(shared_->mutex);
    return shared_->queue.size();
}

}  // namespace core
