// The master's loop: waits for signals and for workers that report, and acts.
#include "server/master.h"

#include <fcntl.h>
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
#include "server/status.h"
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

core::Result<void> Master::open_loop() {
    auto opened = core::Reactor::open();
    if (opened) opened = signal_watch_.start(signal_fd(), wake_, core::Watch::level_read);
    if (opened) opened = ready_watch_.start(ready_pipe_[0], wake_, core::Watch::level_read);
    if (opened) opened = process_.control.start(ControlPlace::master);
    return opened;
}

int Master::run() {
    core::set_process_title("nginx: master process " + command_text());
    auto opened = open_signals();
    if (opened) opened = open_pipes();
    if (opened) opened = open_loop();
    if (!opened) {
        LOG(core::process_log(), emerg, 0, "%s", opened.error().what.c_str());
        return 1;
    }
    reload_began_ms_ = core::Clock::monotonic_ms();
    start_workers();
    while (!done()) {
        wait();
        handle(take_signals());
        if (state_ == State::running) respawn_due();
        if (quit_due_ms_) quit_when_due();
        if (hurry_due_ms_ && core::Clock::monotonic_ms() >= hurry_due_ms_) hurry_oldest();
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
    auto no_longer_than = [&](int64_t due) {
        int64_t left = std::max<int64_t>(due - now, 0);
        if (timeout < 0 || left < timeout) timeout = left;
    };
    for (const Respawn& respawn : respawns_) no_longer_than(respawn.due_ms);
    if (reload_wanted_) no_longer_than(reload_due_ms());
    if (hurry_due_ms_) no_longer_than(hurry_due_ms_);
    if (quit_due_ms_) no_longer_than(quit_due_ms_);
    if (state_ == State::terminating) timeout = 50;
    core::Reactor::current().turn(timeout);
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
    if (!quit_due_ms_) shared_status().state = ServerState::ready;
    hurry_oldest();
    process_.control.set_settled(true);
    notify_ready();
}

void Master::handle(const Signals& signals) {
    if (signals.child) reap();
    if (signals.interrupt) return terminate();
    if (signals.term) return asked_to_end();
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
        reopen_logs();
    }
    if (signals.usr2) upgrade();
    if (signals.winch && process_.daemonized) stop_accepting();
}

void Master::reopen_logs() {
    auto& conf = process_.configuration->main<MainConf>(main_module);
    reopen_all_logs(*process_.configuration, worker_user(conf));
    for (Child& child : children_) ::kill(child.pid, SIGUSR1);
}

// TERM: at once, or gracefully and, the second time, at once.
void Master::asked_to_end() {
    auto& conf = process_.configuration->main<MainConf>(main_module);
    if (state_ != State::running || quit_due_ms_ || !terminates_gracefully(conf)) {
        return terminate();
    }
    LOG(core::process_log(), notice, 0, "signal %d (SIGTERM) received, shutting down gracefully",
        SIGTERM);
    shared_status().state = ServerState::stopping;
    quit_due_ms_ = core::Clock::monotonic_ms() + conf.terminate_delay_ms;
}

// Whoever sends requests here has had the time to see that this server is going to stop.
void Master::quit_when_due() {
    if (state_ != State::running) quit_due_ms_ = 0;
    else if (core::Clock::monotonic_ms() >= quit_due_ms_) quit();
}

void Master::quit() {
    if (state_ != State::running) return;
    state_ = State::quitting;
    quit_due_ms_ = 0;
    shared_status().state = ServerState::stopping;
    core::notify_service_manager("STOPPING=1");
    respawns_.clear();
    for (Child& child : children_) tell(child, SIGQUIT);
    process_.sockets.close_all();
}

void Master::terminate() {
    if (state_ == State::terminating) return;
    LOG(core::process_log(), notice, 0, "signal received, exiting");
    state_ = State::terminating;
    shared_status().state = ServerState::stopping;
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
    process.control.close();
    bool shared = process.sockets.inherited() && ::getppid() == process.parent;
    if (!upgraded && !shared) process.sockets.remove_files();
}

}  // namespace server
