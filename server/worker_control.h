// WorkerControl: what tells a worker to leave or to reopen its logs: signals, and the pipe whose
// other end only the master holds. Owned beside the Worker by whoever runs it.
#pragma once

#include "core/reactor.h"
#include "core/result.h"

namespace server {

class Configuration;
class ListenSockets;
class Worker;

class WorkerControl {
  public:
    // `lifeline`: readable (at its end) once the master is gone; -1 for a process without master.
    // `sockets` are closed as the worker begins to leave.
    WorkerControl(Worker& worker, ListenSockets& sockets, int lifeline);
    core::Result<void> start();

    // Without a master a HUP is the worker's to see: it then leaves, and this says why.
    bool reload_wanted() const { return reload_wanted_; }

  private:
    struct SignalWatch : core::IoHandler {
        WorkerControl* control = nullptr;
        void on_io(uint8_t) override;
    };
    struct LifelineWatch : core::IoHandler {
        WorkerControl* control = nullptr;
        void on_io(uint8_t) override;
    };
    void on_signals();
    void leave_gracefully();
    void reload();
    void refresh();

    Worker& worker_;
    ListenSockets& sockets_;
    const int lifeline_;
    bool reload_wanted_ = false;
    SignalWatch on_signal_;
    LifelineWatch on_lifeline_;
    core::Watch signal_watch_;
    core::Watch lifeline_watch_;
};

// HUP with an unchanged configuration: `call` is made in each worker, which stays. For code that is
// kept beside the configuration; register once a process.
void on_refresh(void (*call)(Worker&));

// USR1: log files are opened anew. `owner`: the workers' user in the master, else unsigned(-1).
void reopen_all_logs(Configuration& configuration, unsigned owner);
// Standard error goes where the main error log goes (as nginx has it): what libraries and crash
// reports print is not lost.
void redirect_stderr(const Configuration& configuration);

}  // namespace server
