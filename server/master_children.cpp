// The master's workers: starting, burying, replacing.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/clock.h"
#include "core/log.h"
#include "core/process.h"
#include "server/control/follower.h"
#include "server/main_conf.h"
#include "server/master.h"
#include "server/process_setup.h"
#include "server/status.h"
#include "server/worker.h"
#include "server/worker_control.h"

namespace server {

namespace {

// A worker that dies younger than this counts as a failure; in a row they are started ever later.
constexpr int64_t settled_ms = 5000;
constexpr int64_t delay_first_ms = 100;
constexpr int64_t delay_max_ms = 5000;

// The worker number of the privileged agent.
constexpr int agent_id = -1;
const char* name_of(int id) {
    return id == agent_id ? "privileged agent process" : "worker process";
}

// The exit status of a worker that could not start.
constexpr int cannot_start = 2;

[[noreturn]] void refuse_to_start(const core::Error& error) {
    LOG(core::process_log(), emerg, 0, "%s", error.what.c_str());
    ::_exit(cannot_start);
}

}  // namespace

void Master::start_workers() {
    auto& conf = process_.configuration->main<MainConf>(main_module);
    ++generation_;
    process_.control.set_settled(false);
    reported_ready_ = false;
    respawns_.clear();
    failures_.assign(size_t(conf.worker_processes) + 1, 0);
    for (int id = 0; id < conf.worker_processes; ++id) spawn(id);
    int64_t agent_connections = process_.configuration->privileged_agent_connections;
    if (agent_connections > 0) spawn(agent_id);
    if (agent_connections == 0) {
        LOG(core::process_log(), alert, 0, "0 worker_connection is not enough, privileged agent "
            "process cannot be spawned");
    }
}

int Master::free_slot() const {
    std::vector<bool> taken(SharedStatus::slots, false);
    for (const Child& child : children_) taken[size_t(child.slot)] = true;
    auto found = std::find(taken.begin(), taken.end(), false);
    return found == taken.end() ? -1 : int(found - taken.begin());
}

void Master::spawn(int id) {
    int slot = free_slot();
    if (slot < 0) {
        LOG(core::process_log(), alert, 0, "no more than %d processes can be started",
            SharedStatus::slots);
        respawns_.push_back({id, core::Clock::monotonic_ms() + delay_max_ms});
        return;
    }
    Control::Ends ends = process_.control.make_link();
    block_signals();
    pid_t pid = ::fork();
    if (pid == 0) {
        ends.master.reset();
        run_child(id, slot, std::move(ends.worker));
    }
    int error = errno;
    unblock_signals();
    if (pid < 0) {
        LOG(core::process_log(), alert, error, "fork() failed while spawning \"%s\"",
            name_of(id));
        respawns_.push_back({id, core::Clock::monotonic_ms() + delay_max_ms});
        return;
    }
    LOG(core::process_log(), notice, 0, "start %s %d", name_of(id), int(pid));
    core::Clock::update();
    children_.push_back({pid, id, slot, generation_, false, false, core::Clock::monotonic_ms()});
    process_.control.worker_started(pid, id, std::move(ends.master));
}

void Master::run_child(int id, int slot, core::Fd control_end) {
    process_.control.forget();
    ::close(lifeline_[1]);
    ::close(ready_pipe_[0]);
    auto opened = open_signals();
    if (!opened) refuse_to_start(opened.error());
    auto& conf = process_.configuration->main<MainConf>(main_module);
    auto set_up = become_worker(conf, id);
    if (!set_up) refuse_to_start(set_up.error());
    core::set_process_title(std::string("nginx: ") + name_of(id));
    set_process_type(id == agent_id ? ProcessType::privileged_agent : ProcessType::worker);
    ControlPlace place{ControlPlace::worker, id};
    for (ControlResource* resource : control_resources()) {
        resource->begin(place, process_.control.state());
    }
    Worker worker(*process_.configuration, id, slot);
    if (id == agent_id) {
        process_.sockets.close_all();
        worker.connections_max = uint64_t(process_.configuration->privileged_agent_connections);
    }
    auto running = worker.open();
    if (!running) refuse_to_start(running.error());
    for (ControlResource* resource : control_resources()) {
        resource->started(place, process_.control.state());
    }
    WorkerControl control(worker, process_.sockets, lifeline_[0]);
    auto watched = control.start();
    if (!watched) refuse_to_start(watched.error());
    std::unique_ptr<ControlFollower> follower;
    if (control_end.valid()) {
        follower = std::make_unique<ControlFollower>(id, std::move(control_end));
        if (auto follows = follower->start(); !follows) refuse_to_start(follows.error());
    }
    pid_t self = ::getpid();
    [[maybe_unused]] ssize_t told = ::write(ready_pipe_[1], &self, sizeof self);
    ::close(ready_pipe_[1]);
    worker.run();
    LOG(core::process_log(), notice, 0, "exit");
    core::leave_process(0);
}

void Master::reap() {
    int status;
    for (;;) {
        pid_t pid = ::waitpid(-1, &status, WNOHANG);
        if (pid < 0 && errno == EINTR) continue;
        if (pid <= 0) break;
        if (pid == new_binary_) {
            new_binary_ended();
            continue;
        }
        auto found = std::find_if(children_.begin(), children_.end(),
                                  [&](const Child& child) { return child.pid == pid; });
        if (found == children_.end()) continue;
        Child child = *found;
        children_.erase(found);
        buried(child, status);
    }
    generation_is_up();
}

void Master::buried(const Child& child, int status) {
    clear_slot(child.slot);
    process_.control.worker_left(child.pid);
    int pid = int(child.pid);
    if (WIFSIGNALED(status)) {
        LOG(core::process_log(), alert, 0, "%s %d exited on signal %d%s", name_of(child.id), pid,
            WTERMSIG(status), WCOREDUMP(status) ? " (core dumped)" : "");
    } else {
        LOG(core::process_log(), notice, 0, "%s %d exited with code %d", name_of(child.id), pid,
            WEXITSTATUS(status));
    }
    if (state_ != State::running || child.told || child.generation != generation_) return;
    bool hopeless = WIFEXITED(status) && WEXITSTATUS(status) == cannot_start;
    if (hopeless && !was_ready_) {
        LOG(core::process_log(), alert, 0, "no worker process could be started");
        failed_ = true;
        return quit();
    }
    respawn_later(child);
}

void Master::respawn_later(const Child& child) {
    int64_t now = core::Clock::monotonic_ms();
    int& failures = failures_[size_t(child.id + 1)];
    failures = now - child.started_ms < settled_ms ? failures + 1 : 0;
    int64_t delay = 0;
    if (failures > 1) delay = std::min(delay_first_ms << std::min(failures - 2, 10), delay_max_ms);
    if (delay > 0) {
        LOG(core::process_log(), notice, 0,
            "worker process %d died young, the next one starts in %lld ms", int(child.pid),
            static_cast<long long>(delay));
    }
    respawns_.push_back({child.id, now + delay});
}

void Master::respawn_due() {
    int64_t now = core::Clock::monotonic_ms();
    std::vector<Respawn> all;
    all.swap(respawns_);
    for (const Respawn& respawn : all) {
        if (respawn.due_ms > now) respawns_.push_back(respawn);
        else spawn(respawn.id);
    }
}

void Master::tell(Child& child, int signal) {
    if (!child.told) child.told_ms = core::Clock::monotonic_ms();
    child.told = true;
    process_.control.worker_left(child.pid);
    if (::kill(child.pid, signal) != 0 && errno != ESRCH) {
        LOG(core::process_log(), alert, errno, "kill(%d, %d) failed", int(child.pid), signal);
    }
}

}  // namespace server
