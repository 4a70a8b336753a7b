// The worker: its loop's start, accepting, leaving, and what it lends to connections and modules.
// Called by the master's child process, or by main when there is no master.
#include "server/worker.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <memory>

#include "core/log.h"
#include "core/pools.h"
#include "core/resolver.h"
#include "core/threads.h"
#include "core/timer.h"
#include "core/tls_idle.h"
#include "server/config.h"
#include "server/http/connection.h"
#include "server/listener.h"
#include "server/main_conf.h"
#include "server/metrics.h"
#include "server/module.h"
#include "server/status.h"

namespace server {

namespace {

Worker* current_worker = nullptr;

// Connections taken from one socket in one turn. Where workers share sockets small bites keep them
// evenly loaded.
constexpr int batch_alone = 64;
constexpr int batch_shared = 8;
constexpr int batch_multi = 512;

// For connections to end in order once worker_shutdown_timeout has passed.
constexpr int64_t last_moment_ms = 500;

// Idle connections closed at once when there is no place for new ones.
constexpr int freed_at_once = 32;

// What has not been used for one or two of these is idle: memory can be saved on it.
constexpr int64_t idle_look_ms = 1000;
std::unique_ptr<core::TlsIdle> tls_idle;

// When half of that many connections, or more, have ended their memory goes back to the system.
constexpr uint64_t crowd_min = 1000;

// Pools and malloc keep what is freed. Looked at as connections end, done when the crowd has left.
class MemoryReturn {
  public:
    MemoryReturn() : timer_([](void* it) { static_cast<MemoryReturn*>(it)->run(); }, this) {}

    void began(uint64_t connections) { most_ = std::max(most_, connections); }
    void ended(uint64_t connections) {
        if (most_ < crowd_min || connections > most_ / 2 || timer_.pending()) return;
        timer_.set(idle_look_ms);
    }

  private:
    void run() {
        most_ = Worker::current()->connection_count;
        core::drain_arena_pool();
        core::drain_buffer_pools();
        core::drain_tls_pages();
#ifdef __GLIBC__
        ::malloc_trim(0);
#endif
    }

    uint64_t most_ = 0;
    core::Timer timer_;
};
std::unique_ptr<MemoryReturn> memory_return;

int batch_of(const MainConf& conf) {
    if (conf.multi_accept.value) return batch_multi;
    return conf.worker_processes > 1 ? batch_shared : batch_alone;
}

}  // namespace

Worker* Worker::current() { return current_worker; }

Worker::Worker(Configuration& loaded, int number, int slot)
    : configuration(loaded), id(number), counters(shared_status().workers[slot]) {
    current_worker = this;
    auto& conf = configuration.main<MainConf>(main_module);
    connections_max = uint64_t(conf.worker_connections.value);
    if (id >= 0) counters.pid.store(::getpid(), std::memory_order_relaxed);
}

Worker::~Worker() {
    listeners_.clear();
    shutdown_timer_.reset();
    pools_.clear();
    resolver_.reset();
    tls_idle.reset();
    memory_return.reset();
    core::Reactor::close();
    if (current_worker == this) current_worker = nullptr;
    end_metrics();
}

core::Result<void> Worker::open() {
    auto opened = core::Reactor::open();
    if (!opened) return opened;
    if (configuration.counts_metrics) {
        begin_metrics(int(&counters - shared_status().workers));
        publish_metrics();
    }
    tls_idle = std::make_unique<core::TlsIdle>(idle_look_ms);
    memory_return = std::make_unique<MemoryReturn>();
    for (const Module* module : modules()) {
        if (!module->init_worker) continue;
        auto done = module->init_worker(*this);
        if (!done) return done;
    }
    return open_listeners();
}

core::Result<void> Worker::open_listeners() {
    auto& conf = configuration.main<MainConf>(main_module);
    if (id < 0) return {};
    for (auto& listen : configuration.listens) {
        if (listen->fds.empty() || listen->options.type != SOCK_STREAM) continue;
        bool own = listen->options.reuse_port && listen->fds.size() > 1;
        int fd = listen->fds[own ? size_t(id) % listen->fds.size() : 0];
        bool shared = !own && conf.worker_processes > 1;
        listeners_.push_back(
            std::make_unique<Listener>(*this, *listen, fd, shared, batch_of(conf)));
        auto started = listeners_.back()->start();
        if (!started) return started;
    }
    return {};
}

void Worker::run() {
    // Told to leave while it was opening: there is nothing to wait for.
    if (exit_ == Exit::running || connection_count || holds_) core::Reactor::current().run();
    for (const Module* module : modules()) {
        if (module->exit_worker) module->exit_worker(*this);
    }
    if (exit_ == Exit::graceful && !ending_ && !connections.empty()) report_leftovers();
}

// Whoever is still here after a graceful exit was forgotten by something: that is worth a look at
// the process, if debug_points says so.
void Worker::report_leftovers() {
    connections.each([](Connection& connection) {
        LOG(core::process_log(), alert, 0, "*%llu open socket #%d left in connection",
            static_cast<unsigned long long>(connection.serial), connection.stream.fd());
    });
    LOG(core::process_log(), alert, 0, "aborting");
    switch (configuration.main<MainConf>(main_module).debug_points) {
    case DebugPoints::none: break;
    case DebugPoints::stop: ::raise(SIGSTOP); break;
    case DebugPoints::abort: std::abort();
    }
}

void Worker::leave(Exit how) {
    if (how <= exit_) return;
    exit_ = how;
    stop_listening();
    if (how == Exit::fast) return core::Reactor::current().stop();
    connections.each([](Connection& connection) { connection.drain(); });
    auto& conf = configuration.main<MainConf>(main_module);
    shutdown_timer_ = std::make_unique<core::Timer>(
        [](void* self) { static_cast<Worker*>(self)->end_connections(); }, this);
    if (int64_t limit = conf.worker_shutdown_timeout.value.count) shutdown_timer_->set(limit);
    hold();                               // what modules do must not end the loop under them
    for (const Module* module : modules()) {
        if (module->worker_leaves) module->worker_leaves(*this);
    }
    --holds_;
    check_exit();
}

void Worker::hurry() {
    if (exit_ == Exit::graceful && !ending_) end_connections();
}

void Worker::stop_listening() {
    for (auto& listener : listeners_) listener->stop();
}

// worker_shutdown_timeout has passed, or the master is in a hurry: first connections are told, then
// nothing is waited for.
void Worker::end_connections() {
    if (ending_) return core::Reactor::current().stop();
    ending_ = true;
    LOG(core::process_log(), notice, 0, "worker_shutdown_timeout reached, closing %llu connections",
        static_cast<unsigned long long>(connection_count));
    connections.each([](Connection& connection) { connection.close(); });
    shutdown_timer_->set(last_moment_ms);
    check_exit();
}

void Worker::check_exit() {
    if (exit_ == Exit::graceful && connection_count == 0 && (holds_ == 0 || ending_)) {
        core::Reactor::current().stop();
    }
}

void Worker::connection_began(Connection& connection) {
    connections.push_back(connection);
    ++connection_count;
    if (memory_return) memory_return->began(connection_count);
    bump(counters.handled);
    bump(counters.active);
}

void Worker::connection_taken_over(Connection& connection) {
    connections.push_back(connection);
    ++connection_count;
    bump(counters.active);
}

void Worker::connection_ended(Connection& connection) {
    connection.unlink();
    --connection_count;
    if (memory_return) memory_return->ended(connection_count);
    bump(counters.active, int64_t(-1));
    if (exit_ != Exit::running) return check_exit();
    for (auto& listener : listeners_) {
        if (listener->paused()) listener->resume();
    }
}

core::Resolver& Worker::resolver() {
    if (!resolver_) {
        auto made = core::Resolver::create({});
        // Nothing of it comes from the configuration: it fails when memory does, or the library.
        if (!made) {
            LOG(core::process_log(), emerg, 0, "%s", made.error().what.c_str());
            std::abort();
        }
        resolver_ = std::move(*made);
    }
    return *resolver_;
}

core::ThreadPool* Worker::thread_pool(const char* name) {
    for (auto& [known, pool] : pools_) {
        if (known == name) return pool.get();
    }
    for (const ThreadPoolConf& conf : configuration.main<MainConf>(main_module).thread_pools) {
        if (conf.name != name) continue;
        auto pool = std::make_shared<core::ThreadPool>(conf.name, conf.threads, conf.max_queue);
        pools_.emplace_back(conf.name, pool);
        return pool.get();
    }
    return nullptr;
}

uint64_t Worker::next_serial() {
    return shared_status().next_serial.fetch_add(1, std::memory_order_relaxed);
}

void Worker::pressure() {
    for (auto& listener : listeners_) listener->pause();
    int left = freed_at_once;
    connections.each([&](Connection& connection) {
        if (left <= 0 || !connection.idle()) return;
        --left;
        connection.close();
    });
}

}  // namespace server
