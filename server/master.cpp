// The master's loop: waits for signals and for workers that report, and acts.
#include "server/master.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/clock.h"
#include "core/log.h"
#include "core/process.h"
#include "core/text.h"
#include "server/main_conf.h"
#include "server/process_setup.h"
#include "server/worker_control.h"

namespace server {

namespace {

// What a worker told to end at once gets before it is killed.
constexpr int64_t kill_after_ms = 1000;

}  // namespace

core::Result<void> Master::open_pipes() {
    for (int* ends : {ready_pipe_, lifeline_}) {
        if (::pipe(ends) != 0) {
            return core::Error{core::format("pipe() failed (%d: %s)", errno,
                                            core::error_name(errno))};
        }
        ::fcntl(ends[0], F_SETFD, FD_CLOEXEC);
        ::fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    }
    ::fcntl(ready_pipe_[0], F_SETFL, O_NONBLOCK);
    return {};
}

int Master::run() {
    core::set_process_title("nginx: master process " + command_text());
    auto opened = open_signals();
    if (opened) opened = open_pipes();
    if (!opened) {
        LOG(core::process_log(), emerg, 0, "%s", opened.error().what.c_str());
        return 1;
    }
    start_workers();
    while (!done()) {
        wait();
        handle(take_signals());
        if (state_ == State::running) respawn_due();
        if (reload_wanted_) reload_when_due();
        if (state_ == State::terminating) kill_stragglers();
    }
    LOG(core::process_log(), notice, 0, "exit");
    clean_up(process_, new_binary_ != 0);
    return failed_ ? 1 : 0;
}

bool Master::done() const { return state_ != State::running && children_.empty(); }

// Until a signal or a worker's report comes, or a worker is due.
void Master::wait() {
    int64_t timeout = -1;
    core::Clock::update();
    int64_t now = core::Clock::monotonic_ms();
    for (const Respawn& respawn : respawns_) {
        int64_t left = std::max<int64_t>(respawn.due_ms - now, 0);
        if (timeout < 0 || left < timeout) timeout = left;
    }
    if (reload_wanted_) {
        int64_t left = std::max<int64_t>(reload_due_ms() - now, 0);
        if (timeout < 0 || left < timeout) timeout = left;
    }
    if (state_ == State::terminating) timeout = 50;
    pollfd watched[] = {{signal_fd(), POLLIN, 0}, {ready_pipe_[0], POLLIN, 0}};
    ::poll(watched, 2, int(timeout));
    core::Clock::update();
    read_ready();
}

void Master::read_ready() {
    pid_t pid;
    while (::read(ready_pipe_[0], &pid, sizeof pid) == ssize_t(sizeof pid)) {
        for (Child& child : children_) {
            if (child.pid == pid) child.ready = was_ready_ = true;
        }
    }
    generation_is_up();
}

// Once every worker of the newest generation accepts, the older ones are told to leave.
void Master::generation_is_up() {
    if (reported_ready_ || state_ != State::running || !respawns_.empty()) return;
    for (const Child& child : children_) {
        if (child.generation == generation_ && !child.ready) return;
    }
    reported_ready_ = true;
    up_ms_ = core::Clock::monotonic_ms();
    for (Child& child : children_) {
        if (child.generation != generation_ && !child.told) tell(child, SIGQUIT);
    }
    hurry_oldest();
    notify_ready();
}

void Master::handle(const Signals& signals) {
    if (signals.child) reap();
    if (signals.term) return terminate();
    if (signals.quit) {
        LOG(core::process_log(), notice, 0, "signal %d (SIGQUIT) received from %d, shutting down",
            SIGQUIT, int(signals.quit_from));
        return quit();
    }
    if (state_ != State::running) return;
    if (signals.hup) {
        LOG(core::process_log(), notice, 0, "signal %d (SIGHUP) received from %d, reconfiguring",
            SIGHUP, int(signals.hup_from));
        reload_wanted_ = true;
    }
    if (signals.usr1) {
        LOG(core::process_log(), notice, 0, "reopening logs");
        auto& conf = process_.configuration->main<MainConf>(main_module);
        reopen_all_logs(*process_.configuration, worker_user(conf));
        for (Child& child : children_) ::kill(child.pid, SIGUSR1);
    }
    if (signals.usr2) upgrade();
    if (signals.winch && process_.daemonized) stop_accepting();
}

void Master::quit() {
    if (state_ != State::running) return;
    state_ = State::quitting;
    core::notify_service_manager("STOPPING=1");
    respawns_.clear();
    for (Child& child : children_) tell(child, SIGQUIT);
    process_.sockets.close_all();
}

void Master::terminate() {
    if (state_ == State::terminating) return;
    LOG(core::process_log(), notice, 0, "signal received, exiting");
    state_ = State::terminating;
    core::notify_service_manager("STOPPING=1");
    respawns_.clear();
    terminated_ms_ = core::Clock::monotonic_ms();
    for (Child& child : children_) tell(child, SIGTERM);
}

void Master::kill_stragglers() {
    if (core::Clock::monotonic_ms() - terminated_ms_ < kill_after_ms) return;
    for (Child& child : children_) ::kill(child.pid, SIGKILL);
}

void Master::stop_accepting() {
    no_accepting_ = true;
    respawns_.clear();
    for (Child& child : children_) tell(child, SIGQUIT);
}

core::Result<void> init_process(Configuration& configuration) {
    for (const Module* module : modules()) {
        if (!module->init_process) continue;
        auto done = module->init_process(configuration);
        if (!done) return done;
    }
    return {};
}

void clean_up(ServerProcess& process, bool upgraded) {
    remove_pid(upgraded ? process.pid_path + ".oldbin" : process.pid_path);
    // An old master that still runs needs the files, and so does a new one.
    bool shared = process.sockets.inherited() && ::getppid() == process.parent;
    if (!upgraded && !shared) process.sockets.remove_files();
}

}  // namespace server
