// Reload: when one is due, what it replaces, and how many generations of workers may drain at once.
// Part of Master; a single process (single.cpp) uses load_again() alone. Knows nothing of how
// workers are started or buried.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "core/clock.h"
#include "core/log.h"
#include "core/process.h"
#include "core/text.h"
#include "server/main_conf.h"
#include "server/master.h"
#include "server/process_setup.h"
#include "server/status.h"
#include "server/worker_control.h"

namespace server {

namespace {

// A generation that is not up after so long no longer keeps a wanted reload waiting: what hangs in
// its init_worker_by_lua may be what the new configuration mends.
constexpr int64_t patience_ms = 10000;
// The longest pause after a reload. It is as long as the reload took, so that a storm of signals
// leaves half of the machine's time to the requests.
constexpr int64_t pause_max_ms = 200;

// What a worker told to leave gets before it may be hurried: idle connections are gone by then.
constexpr int64_t unhurried_ms = 2000;

void notify_reloading() {
    core::notify_service_manager(core::format("RELOADING=1\nMONOTONIC_USEC=%llu",
                                static_cast<unsigned long long>(core::Clock::precise_us()))
                       .c_str());
}

}  // namespace

void Master::notify_ready() {
    core::daemon_ready();
    core::notify_service_manager(core::format("READY=1\nMAINPID=%d", int(::getpid())));
}

// When a wanted reload may begin: not while another one is being carried out.
int64_t Master::reload_due_ms() const {
    if (no_accepting_ || new_binary_) return 0;
    // A worker has died before it was up: waiting is of no use.
    if (!respawns_.empty()) return 0;
    if (!reported_ready_) return reload_began_ms_ + patience_ms;
    return up_ms_ + std::clamp<int64_t>(up_ms_ - reload_began_ms_, 0, pause_max_ms);
}

void Master::reload_when_due() {
    if (state_ != State::running || quit_due_ms_) {
        reload_wanted_ = false;
        return;
    }
    if (reload_due_ms() > core::Clock::monotonic_ms()) return;
    reload_wanted_ = false;
    reload();
}

void Master::reload() {
    // While a new binary is tried out, HUP brings the old one's workers back, unchanged.
    bool had_workers = !no_accepting_;
    if (new_binary_ || no_accepting_) {
        no_accepting_ = false;
        if (new_binary_) return start_workers();
    }
    notify_reloading();
    reload_began_ms_ = core::Clock::monotonic_ms();
    Loaded loaded = load_again(process_, had_workers && reported_ready_);
    core::Clock::update();
    if (loaded == Loaded::changed) return start_workers();
    if (loaded == Loaded::unchanged) refresh_workers();
    if (reported_ready_) up_ms_ = core::Clock::monotonic_ms();
    notify_ready();
}

// The configuration is the same, and the workers see for themselves to Lua code that is not.
void Master::refresh_workers() {
    LOG(core::process_log(), notice, 0, "the configuration is unchanged, workers stay");
    reopen_logs();
    for (Child& child : children_) {
        if (!child.told) ::kill(child.pid, SIGHUP);
    }
}

// The oldest of the generations that drain which may take their time.
int64_t Master::oldest_kept() const {
    auto& conf = process_.configuration->main<MainConf>(main_module);
    std::vector<int> draining;
    for (const Child& child : children_) {
        if (child.generation != generation_) draining.push_back(child.generation);
    }
    std::sort(draining.begin(), draining.end());
    draining.erase(std::unique(draining.begin(), draining.end()), draining.end());
    size_t room = size_t(std::max(1, SharedStatus::slots / conf.worker_processes - 1));
    size_t limit = std::min(size_t(conf.draining_generations.value), room);
    return draining.size() > limit ? draining[draining.size() - limit] : 0;
}

// The oldest generations of those that drain, beyond worker_draining_generations of them, wait no
// longer for their connections: every one holds memory of its own. Those that have little left to
// do are given the time to go by themselves.
void Master::hurry_oldest() {
    hurry_due_ms_ = 0;
    if (state_ != State::running) return;
    int64_t oldest = oldest_kept(), now = core::Clock::monotonic_ms();
    for (Child& child : children_) {
        if (child.generation >= oldest || child.hurried) continue;
        if (now - child.told_ms < unhurried_ms) {
            hurry_due_ms_ = now + unhurried_ms / 4;
            continue;
        }
        child.hurried = true;
        LOG(core::process_log(), notice, 0, "too many generations of workers drain, worker process "
            "%d is to close its connections", int(child.pid));
        tell(child, SIGWINCH);
    }
}

Loaded load_again(ServerProcess& process, bool may_keep) {
    auto refuse = [&](const std::string& why) {
        process.configuration->make_current();
        LOG(core::process_log(), emerg, 0, "%s", why.c_str());
        process.control.reload_failed(why);
        note_configuration(ConfigurationEvent::refused, why);
        return Loaded::failed;
    };
    int64_t began_ns = ConfigStamp::now_ns();
    auto loaded = Configuration::load(process.options);
    if (!loaded) return refuse(loaded.error().what);
    auto& conf = (*loaded)->main<MainConf>(main_module);
    ConfigStamp stamp = ConfigStamp::of(**loaded, began_ns);
    if (may_keep && !conf.reload_always && stamp.same_workers(process.stamp)) {
        process.configuration->make_current();
        process.control.reload_kept(**loaded);
        note_configuration(ConfigurationEvent::unchanged);
        return Loaded::unchanged;
    }
    auto opened = process.sockets.open(**loaded, process.single ? 1 : conf.worker_processes);
    if (!opened) return refuse(opened.error().what);
    auto ready = process.control.open(**loaded, false);
    if (ready) ready = init_process(**loaded);
    if (ready && conf.pid.value != process.pid_path) {
        ready = core::write_pid_file(conf.pid.value, ::getpid());
    }
    if (!ready) {
        process.sockets.roll_back();
        process.control.roll_back();
        return refuse(ready.error().what);
    }
    if (conf.pid.value != process.pid_path) remove_pid(process.pid_path);
    process.pid_path = conf.pid.value;
    process.sockets.commit();
    process.control.give_way();
    core::process_log().log = &(*loaded)->error_log;
    process.configuration = std::move(*loaded);
    process.configuration->make_current();
    process.stamp = std::move(stamp);
    process.control.commit(*process.configuration);
    redirect_stderr(*process.configuration);
    note_configuration(ConfigurationEvent::changed);
    return Loaded::changed;
}

}  // namespace server
