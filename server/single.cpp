// master_process off: one process is everything. Called by main.
#include <unistd.h>


#include "core/log.h"
#include "core/process.h"
#include "core/text.h"
#include "server/main_conf.h"
#include "server/master.h"
#include "server/status.h"
#include "server/worker.h"
#include "server/worker_control.h"

namespace server {

namespace {

enum class Outcome : uint8_t { ended, failed, reload };

Outcome serve(ServerProcess& process) {
    Worker worker(*process.configuration, 0);
    auto opened = worker.open();
    WorkerControl control(worker, process.sockets, -1);
    if (opened) opened = control.start();
    if (opened) opened = process.control.start(ControlPlace::single);
    if (!opened) {
        LOG(core::process_log(), emerg, 0, "%s", opened.error().what.c_str());
        return Outcome::failed;
    }
    core::daemon_ready();
    core::notify_service_manager(core::format("READY=1\nMAINPID=%d", int(::getpid())));
    shared_status().state = ServerState::ready;
    worker.run();
    process.control.stop();
    if (!control.reload_wanted()) return Outcome::ended;
    LOG(core::process_log(), notice, 0, "reconfiguring");
    // While the loop is still open: what the old configuration holds may be watched by it.
    load_again(process);
    return Outcome::reload;
}

}  // namespace

void run_single(ServerProcess& process) {
    auto signals = open_signals();
    if (!signals) {
        LOG(core::process_log(), emerg, 0, "%s", signals.error().what.c_str());
        ::_exit(1);
    }
    core::set_environment(process.configuration->main<MainConf>(main_module).env);
    Outcome outcome;
    // A reload serves what has begun to its end first; new connections wait in the sockets' queues.
    do outcome = serve(process);
    while (outcome == Outcome::reload);
    LOG(core::process_log(), notice, 0, "exit");
    clean_up(process, false);
    // Connections that TERM cut off are still there: nothing is to be taken apart under them.
    core::leave_process(outcome == Outcome::failed ? 1 : 0);
}

}  // namespace server
