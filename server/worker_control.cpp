// Signals and the lifeline of a worker.
#include "server/worker_control.h"

#include <unistd.h>

#include <vector>

#include "core/child.h"
#include "core/log.h"
#include "core/process.h"
#include "server/config.h"
#include "server/listen_sockets.h"
#include "server/main_conf.h"
#include "server/module.h"
#include "server/signals.h"
#include "server/status.h"
#include "server/worker.h"

namespace server {

namespace {

using RefreshCall = void (*)(Worker&);
std::vector<RefreshCall>& refresh_calls() {
    static std::vector<RefreshCall> calls;
    return calls;
}

}  // namespace

void on_refresh(RefreshCall call) { refresh_calls().push_back(call); }

WorkerControl::WorkerControl(Worker& worker, ListenSockets& sockets, int lifeline)
    : worker_(worker), sockets_(sockets), lifeline_(lifeline) {
    on_signal_.control = this;
    on_lifeline_.control = this;
}

core::Result<void> WorkerControl::start() {
    auto started = signal_watch_.start(signal_fd(), on_signal_, core::Watch::level_read);
    if (!started || lifeline_ < 0) return started;
    return lifeline_watch_.start(lifeline_, on_lifeline_, core::Watch::level_read);
}

void WorkerControl::SignalWatch::on_io(uint8_t) { control->on_signals(); }

void WorkerControl::LifelineWatch::on_io(uint8_t) {
    char byte;
    if (::read(control->lifeline_, &byte, 1) != 0) return;
    control->lifeline_watch_.stop();
    LOG(core::process_log(), notice, 0, "the master process is gone");
    shared_status().state = ServerState::stopping;
    control->leave_gracefully();
}

void WorkerControl::on_signals() {
    Signals signals = take_signals();
    if (signals.child) core::bury_children();
    if (signals.usr1) {
        LOG(core::process_log(), notice, 0, "reopening logs");
        reopen_all_logs(worker_.configuration, unsigned(-1));
    }
    bool drains = lifeline_ < 0 && !signals.interrupt && !worker_.leaving() &&
                  terminates_gracefully(worker_.configuration.main<MainConf>(main_module));
    if (signals.term && drains) return leave_gracefully();
    if (signals.term || signals.interrupt) {
        LOG(core::process_log(), notice, 0, "exiting");
        return worker_.leave(Worker::Exit::fast);
    }
    if (signals.quit) leave_gracefully();
    // From a master that has too many generations of workers draining; a terminal that is resized
    // sends it too.
    if (signals.winch && signals.winch_from == ::getppid()) worker_.hurry();
    if (signals.hup && lifeline_ < 0) reload();
    else if (signals.hup) refresh();
}

// From a master whose configuration has not changed: whoever keeps compiled code of files looks at
// them again.
void WorkerControl::refresh() {
    for (RefreshCall call : refresh_calls()) call(worker_);
}

// Without a master. OpenResty's server ends then.
void WorkerControl::reload() {
    if (worker_.configuration.main<MainConf>(main_module).lua_compat_openresty) {
        return leave_gracefully();
    }
    if (worker_.leaving()) return;
    reload_wanted_ = true;
    worker_.leave(Worker::Exit::graceful);
}

void WorkerControl::leave_gracefully() {
    if (worker_.leaving()) {
        reload_wanted_ = false;
        return;
    }
    LOG(core::process_log(), notice, 0, "gracefully shutting down");
    if (process_type() == ProcessType::worker) {
        core::set_process_title("nginx: worker process is shutting down");
    } else if (lifeline_ < 0 && !reload_wanted_) {
        shared_status().state = ServerState::stopping;
    }
    worker_.leave(Worker::Exit::graceful);
    sockets_.close_all();
}

void reopen_all_logs(Configuration& configuration, unsigned owner) {
    core::reopen_log_sinks(owner);
    for (const Module* module : modules()) {
        if (module->reopen_logs) module->reopen_logs(configuration, owner);
    }
    redirect_stderr(configuration);
}

void redirect_stderr(const Configuration& configuration) {
    for (const auto& output : configuration.error_log.outputs) {
        int fd = output.sink->fd();
        if (fd < 0) continue;
        auto done = core::redirect_stderr(fd);
        if (!done) LOG(core::process_log(), alert, 0, "%s", done.error().what.c_str());
        return;
    }
}

}  // namespace server
