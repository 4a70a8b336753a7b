// Control: changes of a running server. Owned by the master, which hands each to its workers, or by
// the only process. control.md tells what can be asked, resource.h the steps of a change.
#pragma once

#include <sys/types.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "core/timer.h"
#include "server/control/connection.h"
#include "server/control/link.h"
#include "server/control/resource.h"
#include "server/control/state.h"

namespace server {

class Configuration;
class ControlConnection;

class Control {
  public:
    Control();
    ~Control();

    // ---- configurations: a new one is opened, then commited or rolled back ----
    core::Result<void> open(Configuration& configuration, bool take_over);
    void roll_back() { server_.roll_back(); }
    // The one in force is about to go: what is staged may point into it.
    void give_way();
    // It is in force, before workers are forked: sockets change, and what was changed at run time
    // is applied to it. What fits no more is dropped with a warning.
    void commit(Configuration& configuration);
    void reload_failed(const std::string& why);
    // Nothing had changed, workers stay; a token may be another.
    void reload_kept(Configuration& same);

    // ---- the process's loop ----
    core::Result<void> start(ControlPlace::Kind kind);
    void stop();
    void close() { server_.close_all(); }
    void reclaim_files() { server_.reclaim(); }
    // In the child that becomes a new binary: what was changed goes to it by a descriptor, when
    // there is no file to read it from.
    void pass_on() const;

    // ---- the master's workers ----
    bool enabled() const { return server_.open(); }
    struct Ends {
        core::Fd master, worker;           // neither is valid when there is no control socket
    };
    Ends make_link();
    void worker_started(pid_t pid, int id, core::Fd end);
    void worker_left(pid_t pid);           // it died, or is to leave: no changes for it any more
    // In the child: the master's descriptors are closed. What is staged stays as it is: it may hold
    // memory that is shared.
    void forget();
    const ControlState& state() const { return state_; }
    // While the workers of a new configuration come up changes wait.
    void set_settled(bool settled);

  private:
    struct Follower {
        pid_t pid;
        int id;
        bool answered = false;             // to the transaction under way
        bool closed = false;
        std::unique_ptr<ControlLink> link;
    };
    struct Asked {
        std::weak_ptr<ControlConnection> from;
        ControlRequest request;
        int64_t deadline_ms;
    };
    enum class Stage : uint8_t { none, staging, committing };
    struct Transaction {
        uint64_t id = 0;
        Stage stage = Stage::none;
        bool dry_run = false;
        std::weak_ptr<ControlConnection> from;
        std::vector<ControlItem> items;
        std::vector<StagedPtr> staged;
        int applied = 0;                   // workers
        int64_t began_ms = 0;
    };

    // control.cpp
    core::Result<void> load(const std::string& path);
    void replay();
    void save();
    void enqueue(const std::shared_ptr<ControlConnection>& from, const ControlRequest& request);
    void begin_next();
    void begin(Asked& asked);
    void fail(const ControlError& error, int worker = -1);
    void received(pid_t pid, Frame&& frame);
    void advance();
    bool all_answered() const;
    void commit_transaction();
    void end_transaction();
    void abort();
    void wait_for_workers();
    void on_timeout();
    void bury_followers();
    ControlPlace place() const { return {kind_, -1}; }

    // routes.cpp
    void receive(const std::shared_ptr<ControlConnection>& from, const ControlRequest& request);
    ControlAnswer show(const std::vector<std::string>& path);
    ControlAnswer order(const std::string& what);
    void show_status(core::JsonWriter& json) const;
    void show_changes(core::JsonWriter& json) const;
    ControlOutcome plan(const ControlRequest& request, ControlDraft::Pending& pending,
                        bool& dry_run);
    ControlOutcome plan_one(core::Slice method, core::Slice path, std::string body,
                            ControlDraft::Pending& pending);
    ControlOutcome plan_many(const std::string& body, ControlDraft::Pending& pending,
                             bool& dry_run);
    ControlOutcome check_version(core::Slice if_match, core::Slice path) const;

    ControlServer server_;
    ControlState state_;
    bool state_loaded_ = false;
    std::string state_path_;
    ControlPlace::Kind kind_ = ControlPlace::single;
    Configuration* configuration_ = nullptr;
    std::vector<Follower> followers_;
    std::deque<Asked> queue_;
    Transaction now_;
    uint64_t last_id_ = 0;
    bool settled_ = true;
    bool running_ = false;
    core::Timer timer_;                    // of the transaction, or of the first in the queue
    core::Timer sweep_;                    // links that closed
    int64_t started_s_;
    uint64_t reloads_ = 0;
    bool committed_once_ = false;
    std::string reload_error_;             // of the last reload; empty: it went well
};

// An error as JSON.
ControlAnswer control_error(const ControlError& error, int worker = -1);

}  // namespace server
