// The master process: starts workers, replaces those that die, does what signals ask for. Called by
// main; process.md beside this file tells the whole story.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "core/reactor.h"
#include "server/config.h"
#include "server/config_stamp.h"
#include "server/control/control.h"
#include "server/listen_sockets.h"
#include "server/signals.h"

namespace server {

// What main hands over: a configuration that is loaded, its sockets open.
struct ServerProcess {
    LoadOptions options;
    std::unique_ptr<Configuration> configuration;
    ConfigStamp stamp;            // of that configuration
    ListenSockets sockets;
    Control control;              // changes at run time
    std::string pid_path;
    bool daemonized = false;
    bool single = false;          // no master, one worker: decided at the start
    pid_t parent = 0;             // of a binary upgrade: the old master
};

enum class Loaded : uint8_t { failed, unchanged, changed };
// Loads the configuration anew and opens its sockets; the process is unchanged when that fails
// (which has been logged), and with `may_keep` when running workers need not be replaced.
Loaded load_again(ServerProcess& process, bool may_keep = false);
// Runs the modules' init_process.
core::Result<void> init_process(Configuration& configuration);
// Removes the pid file and the files of Unix sockets, as far as they are this process's.
void clean_up(ServerProcess& process, bool upgraded);

// Everything in one process (master_process off).
[[noreturn]] void run_single(ServerProcess& process);

class Master {
  public:
    explicit Master(ServerProcess& process) : process_(process) {}
    int run();                    // returns the exit status

  private:
    struct Child {
        pid_t pid;
        int id;                   // worker number
        int slot;                 // of the shared counters
        int generation;
        bool ready;               // it accepts
        bool told;                // to leave
        int64_t started_ms;
        int64_t told_ms = 0;
        bool hurried = false;     // …and not to wait for worker_shutdown_timeout
    };
    struct Respawn {
        int id;
        int64_t due_ms;
    };
    enum class State : uint8_t { running, quitting, terminating };

    // master.cpp
    core::Result<void> open_pipes();
    core::Result<void> open_loop();
    void wait();
    void read_ready();
    void handle(const Signals& signals);
    void reopen_logs();
    void asked_to_end();
    void quit();
    void quit_when_due();
    void terminate();
    void kill_stragglers();
    void stop_accepting();
    void generation_is_up();
    bool done() const;

    // master_reload.cpp
    static void notify_ready();
    void reload_when_due();
    int64_t reload_due_ms() const;
    void reload();
    void refresh_workers();
    void hurry_oldest();
    int64_t oldest_kept() const;

    // master_children.cpp
    void start_workers();
    void spawn(int id);
    [[noreturn]] void run_child(int id, int slot, core::Fd control);
    int free_slot() const;
    void reap();
    void buried(const Child& child, int status);
    void respawn_later(const Child& child);
    void respawn_due();
    void tell(Child& child, int signal);

    // master_upgrade.cpp
    void upgrade();
    [[noreturn]] void run_new_binary();
    void new_binary_ended();
    std::string old_pid_path() const { return process_.pid_path + ".oldbin"; }

    ServerProcess& process_;
    State state_ = State::running;
    std::vector<Child> children_;
    std::vector<Respawn> respawns_;
    std::vector<int> failures_;           // in a row, by worker number + 1 (the agent's is -1)
    int generation_ = 0;
    bool was_ready_ = false;              // some worker has been up since the start
    bool reported_ready_ = false;         // …all of this generation, and the old ones were told
    bool reload_wanted_ = false;          // HUP came; several are one
    int64_t reload_began_ms_ = 0;         // when the newest generation's reload began
    int64_t hurry_due_ms_ = 0;            // workers may be too many then; 0: they are not
    int64_t up_ms_ = 0;                   // when that generation was up
    bool no_accepting_ = false;           // WINCH: workers left, none are started
    bool failed_ = false;
    int64_t quit_due_ms_ = 0;             // TERM came, and it may be a moment; 0: it did not
    int64_t terminated_ms_ = 0;
    pid_t new_binary_ = 0;
    int ready_pipe_[2] = {-1, -1};        // workers write their process id when they accept
    int lifeline_[2] = {-1, -1};          // its end tells workers that the master is gone
    // The loop is the control socket's; signals and reports wake it.
    struct Wake : core::IoHandler {
        void on_io(uint8_t) override {}
    };
    Wake wake_;
    core::Watch signal_watch_, ready_watch_;
};

}  // namespace server
