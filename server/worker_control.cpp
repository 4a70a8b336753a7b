// Signals and the lifeline of a worker.
#include "server/worker_control.h"

#include <unistd.h>

#include "core/child.h"
#include "core/log.h"
#include "core/process.h"
#include "server/config.h"
#include "server/listen_sockets.h"
#include "server/main_conf.h"
#include "server/module.h"
#include "server/signals.h"
#include "server/worker.h"

namespace server {

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
    control->leave_gracefully();
}

void WorkerControl::on_signals() {
    Signals signals = take_signals();
    if (signals.child) core::bury_children();
    if (signals.usr1) {
        LOG(core::process_log(), notice, 0, "reopening logs");
        reopen_all_logs(worker_.configuration, unsigned(-1));
    }
    if (signals.term) {
        LOG(core::process_log(), notice, 0, "exiting");
        return worker_.leave(Worker::Exit::fast);
    }
    if (signals.quit) leave_gracefully();
    // From a master that has too many generations of workers draining.
    if (signals.winch) worker_.hurry();
    if (signals.hup && lifeline_ < 0) reload();
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
