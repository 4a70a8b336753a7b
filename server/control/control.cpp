// A change on its way: planned, staged here and in every worker, written down, committed. One at a
// time; the others wait in a queue.
#include "server/control/control.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>

#include "core/clock.h"
#include "core/json_writer.h"
#include "core/log.h"
#include "core/text.h"
#include "server/config.h"
#include "server/control/conf.h"

namespace server {

namespace {

// For workers to stage; beyond it the change is undone everywhere.
constexpr int64_t stage_ms = 5000;
// The same for one that starts meanwhile, but not for ever.
constexpr int64_t stage_most_ms = 20000;
// For workers to say that they have committed, which they will do in any case.
constexpr int64_t commit_ms = 2000;
// For changes before this one, and for a reload under way.
constexpr int64_t queue_ms = 15000;
constexpr size_t queue_max = 256;

// The environment variable that names the descriptor with what the old binary knew.
constexpr const char* passed_on = "RESTY_CONTROL_STATE";

}  // namespace

Control::Control()
    : server_([this](const auto& from, const ControlRequest& request) { receive(from, request); }),
      timer_([](void* self) { static_cast<Control*>(self)->on_timeout(); }, this),
      sweep_([](void* self) { static_cast<Control*>(self)->bury_followers(); }, this) {
    core::Clock::update();
    started_s_ = core::Clock::wall_ms() / 1000;
}

Control::~Control() = default;

// ---- configurations ----

// Once: from the file, or what the process that this one takes the place of has passed on.
core::Result<void> Control::load(const std::string& path) {
    if (const char* given = std::getenv(passed_on)) {
        auto number = core::parse_number(given, INT_MAX);
        // Whatever somebody else has put there: the standard descriptors are not ours to close.
        core::Fd fd(number && *number > STDERR_FILENO ? int(*number) : -1);
        ::unsetenv(passed_on);
        std::string text;
        char room[16 * 1024];
        for (off_t at = 0; fd.valid();) {
            ssize_t got = ::pread(fd.get(), room, sizeof room, at);
            if (got <= 0) break;
            text.append(room, size_t(got));
            at += got;
        }
        auto passed = ControlState::parse(text);
        if (passed) state_ = std::move(*passed);
        else LOG(core::process_log(), error, 0, "%s", passed.error().what.c_str());
    }
    if (state_loaded_ || path.empty() || state_.count() > 0) return {};
    auto loaded = load_control_state(path);
    if (!loaded) return core::Error{"control_state " + loaded.error().what};
    state_ = std::move(*loaded);
    state_loaded_ = true;
    return {};
}

void Control::pass_on() const {
#ifdef __linux__
    if (state_.count() == 0 || !state_path_.empty()) return;
    int fd = ::memfd_create("control-state", 0);
    std::string text = state_.to_json();
    if (fd < 0 || ::pwrite(fd, text.data(), text.size(), 0) != ssize_t(text.size())) return;
    ::setenv(passed_on, std::to_string(fd).c_str(), 1);
#endif
}

core::Result<void> Control::open(Configuration& configuration, bool take_over) {
    const ControlConf& conf = control_conf(configuration);
    auto loaded = load(conf.state_path);
    return loaded ? server_.open(conf.addresses, take_over) : std::move(loaded);
}

void Control::give_way() {
    if (now_.stage != Stage::staging) return;
    settled_ = false;                      // the next one waits for the workers to come
    abort();
    fail({503, "busy", "a reload came in between: nothing was changed"});
}

void Control::commit(Configuration& configuration) {
    configuration_ = &configuration;
    state_path_ = control_conf(configuration).state_path;
    auto published = server_.commit();
    if (!published) LOG(core::process_log(), emerg, 0, "%s", published.error().what.c_str());
    bool again = committed_once_;
    if (again) {
        ++reloads_;
        state_.reloaded();
    }
    committed_once_ = true;
    reload_error_.clear();
    for (ControlResource* resource : control_resources()) resource->configured(configuration);
    replay();
    // The number of the version, and maybe another file.
    if (again && state_.count() > 0) save();
}

void Control::save() {
    if (state_path_.empty()) return;
    auto saved = save_control_state(state_path_, state_);
    if (!saved) LOG(core::process_log(), error, 0, "%s", saved.error().what.c_str());
}

// Each value by itself: one that fits the new configuration no more is no reason to drop others.
void Control::replay() {
    bool dropped = false;
    for (const ControlItem& item : state_.items()) {
        auto staged = stage_items({item}, place());
        if (staged) {
            for (StagedPtr& each : *staged) each->commit();
            continue;
        }
        LOG(core::process_log(), warn, 0, "a change made at run time is dropped: %s",
            staged.error().what.c_str());
        state_.drop(item);
        dropped = true;
    }
    if (dropped) save();
}

void Control::reload_failed(const std::string& why) {
    ++reloads_;
    reload_error_ = why;
}

void Control::reload_kept(Configuration& same) {
    auto opened = server_.open(control_conf(same).addresses, false);
    if (opened) opened = server_.commit();
    if (!opened) LOG(core::process_log(), error, 0, "%s", opened.error().what.c_str());
    ++reloads_;
    reload_error_.clear();
}

// ---- the loop ----

core::Result<void> Control::start(ControlPlace::Kind kind) {
    kind_ = kind;
    running_ = true;
    if (kind_ == ControlPlace::single) {
        for (ControlResource* resource : control_resources()) resource->started(place(), state_);
    }
    return server_.start();
}

void Control::stop() {
    running_ = false;
    timer_.cancel();
    sweep_.cancel();
    server_.stop();
    queue_.clear();
    now_ = {};
}

// ---- workers ----

Control::Ends Control::make_link() {
    Ends ends;
    if (!enabled()) return ends;
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) {
        LOG(core::process_log(), alert, errno, "socketpair() failed");
        return ends;
    }
    ends.master.reset(fds[0]);
    ends.worker.reset(fds[1]);
    return ends;
}

// A worker that starts while a change is under way has the memory of before: it takes part.
void Control::worker_started(pid_t pid, int id, core::Fd end) {
    if (!end.valid()) return;
    auto link = std::make_unique<ControlLink>(
        std::move(end), [this, pid](Frame&& frame) { received(pid, std::move(frame)); },
        [this, pid] {
            for (Follower& follower : followers_) {
                if (follower.pid == pid) follower.closed = true;
            }
            sweep_.set(0);
        });
    auto started = link->start();
    if (!started) {
        LOG(core::process_log(), alert, 0, "%s", started.error().what.c_str());
        return;
    }
    Follower& follower = followers_.emplace_back(Follower{pid, id, false, false, std::move(link)});
    if (now_.stage == Stage::staging) {
        follower.link->send({FrameKind::prepare, now_.id, encode_items(now_.items)});
        core::Clock::update();
        int64_t left = now_.began_ms + stage_most_ms - core::Clock::monotonic_ms();
        if (left > 0) timer_.set(std::min(left, stage_ms));
    } else {
        follower.answered = true;
    }
}

void Control::worker_left(pid_t pid) {
    for (Follower& follower : followers_) {
        if (follower.pid == pid) follower.closed = true;
    }
    bury_followers();
}

void Control::bury_followers() {
    auto gone = std::remove_if(followers_.begin(), followers_.end(),
                               [](const Follower& follower) { return follower.closed; });
    if (gone == followers_.end()) return;
    followers_.erase(gone, followers_.end());
    advance();
}

void Control::forget() {
    server_.forget();
    for (Follower& follower : followers_) follower.link->forget();
}

void Control::set_settled(bool settled) {
    settled_ = settled;
    if (settled && running_) begin_next();
}

// ---- transactions ----

void Control::enqueue(const std::shared_ptr<ControlConnection>& from,
                      const ControlRequest& request) {
    if (queue_.size() >= queue_max) {
        return from->answer(control_error({503, "busy", "too many changes wait"}));
    }
    core::Clock::update();
    queue_.push_back({from, request, core::Clock::monotonic_ms() + queue_ms});
    begin_next();
}

void Control::wait_for_workers() {
    if (now_.stage != Stage::none) return;
    core::Clock::update();
    if (queue_.empty()) return timer_.cancel();
    timer_.set(std::max<int64_t>(queue_.front().deadline_ms - core::Clock::monotonic_ms(), 1));
}

void Control::begin_next() {
    while (now_.stage == Stage::none && settled_ && !queue_.empty()) {
        Asked asked = std::move(queue_.front());
        queue_.pop_front();
        if (!asked.from.expired()) begin(asked);
    }
    wait_for_workers();
}

void Control::begin(Asked& asked) {
    now_ = {};
    now_.from = asked.from;
    ControlDraft::Pending pending;
    if (auto wrong = plan(asked.request, pending, now_.dry_run)) return fail(*wrong);
    for (auto& [key, value] : pending) {
        now_.items.push_back({key.first, key.second, std::move(value)});
    }
    if (now_.items.empty()) return end_transaction();
    auto staged = stage_items(now_.items, place());
    if (!staged) return fail(invalid(staged.error().what));
    now_.staged = std::move(*staged);
    now_.id = ++last_id_;
    now_.stage = Stage::staging;
    core::Clock::update();
    now_.began_ms = core::Clock::monotonic_ms();
    timer_.set(stage_ms);
    std::string items = encode_items(now_.items);
    for (Follower& follower : followers_) {
        follower.answered = false;
        follower.link->send({FrameKind::prepare, now_.id, items});
    }
    advance();
}

bool Control::all_answered() const {
    return std::all_of(followers_.begin(), followers_.end(), [](const Follower& follower) {
        return follower.answered || follower.closed;
    });
}

void Control::received(pid_t pid, Frame&& frame) {
    auto at = std::find_if(followers_.begin(), followers_.end(),
                           [&](const Follower& follower) { return follower.pid == pid; });
    if (at == followers_.end() || frame.id != now_.id || now_.stage == Stage::none) return;
    switch (frame.kind) {
    case FrameKind::staged:
        if (now_.stage == Stage::staging) at->answered = true;
        break;
    case FrameKind::committed:
        if (now_.stage != Stage::committing) return;
        at->answered = true;
        ++now_.applied;
        break;
    case FrameKind::refused:
        if (now_.stage != Stage::staging) return;
        abort();
        return fail({422, "refused", frame.text}, at->id);
    default: return;
    }
    advance();
}

void Control::advance() {
    if (now_.stage == Stage::none || !all_answered()) return;
    if (now_.stage == Stage::committing) return end_transaction();
    commit_transaction();
}

void Control::abort() {
    for (Follower& follower : followers_) follower.link->send({FrameKind::abort, now_.id, {}});
    now_.staged.clear();
    now_.stage = Stage::none;
}

// Everybody can: it is written down, then it is so.
void Control::commit_transaction() {
    if (now_.dry_run) {
        now_.applied = int(followers_.size());
        abort();
        return end_transaction();
    }
    auto undo = state_.apply(now_.items);
    if (!state_path_.empty()) {
        auto saved = save_control_state(state_path_, state_);
        if (!saved) {
            state_.undo(undo);
            abort();
            return fail({500, "not_saved", saved.error().what});
        }
    }
    state_.confirm(now_.items);
    for (StagedPtr& staged : now_.staged) staged->commit();
    now_.staged.clear();
    now_.stage = Stage::committing;
    timer_.set(commit_ms);
    for (Follower& follower : followers_) {
        follower.answered = false;
        follower.link->send({FrameKind::commit, now_.id, {}});
    }
    LOG(core::process_log(), notice, 0, "version %llu: %zu changed at run time, first %s/%s",
        static_cast<unsigned long long>(state_.version()), now_.items.size(),
        now_.items.empty() ? "" : now_.items[0].resource.c_str(),
        now_.items.empty() ? "" : now_.items[0].key.c_str());
    advance();
}

void Control::end_transaction() {
    core::JsonWriter json;
    json.begin_object().member("version", state_.version());
    json.member("changed", now_.items.size()).member("workers", now_.applied);
    if (now_.dry_run) json.member("dry_run", true);
    auto late = std::count_if(followers_.begin(), followers_.end(),
                              [](const Follower& each) { return !each.answered; });
    if (late && !now_.dry_run && !now_.items.empty()) json.member("late_workers", int64_t(late));
    json.end_object();
    uint64_t etag = state_.version();
    if (now_.items.size() == 1) etag = state_.version_of(ControlState::object_of(now_.items[0]));
    auto from = now_.from.lock();
    now_ = {};
    if (from) from->answer({200, json.take(), etag});
    begin_next();
}

void Control::fail(const ControlError& error, int worker) {
    auto from = now_.from.lock();
    now_ = {};
    if (from) from->answer(control_error(error, worker));
    if (running_) begin_next();
}

void Control::on_timeout() {
    if (now_.stage == Stage::committing) return end_transaction();
    if (now_.stage == Stage::staging) {
        int worker = -1;
        pid_t pid = 0;
        for (const Follower& follower : followers_) {
            if (follower.answered) continue;
            worker = follower.id;
            pid = follower.pid;
        }
        abort();
        return fail({504, "no_answer",
                     core::format("worker %d (process %d) did not answer in time: nothing was "
                                  "changed", worker, int(pid))}, worker);
    }
    core::Clock::update();
    int64_t now = core::Clock::monotonic_ms();
    while (!queue_.empty() && queue_.front().deadline_ms <= now) {
        auto from = queue_.front().from.lock();
        queue_.pop_front();
        if (!from) continue;
        from->answer(control_error({503, "busy", "a reload or other changes are under way"}));
    }
    wait_for_workers();
}

}  // namespace server
