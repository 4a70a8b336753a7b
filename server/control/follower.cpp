// A worker takes part in a change.
#include "server/control/follower.h"

namespace server {

// The master's end closes when it dies, or when this worker is to leave: there are no more changes
// then, and the lifeline or a signal says the rest.
ControlFollower::ControlFollower(int worker, core::Fd fd)
    : place_{ControlPlace::worker, worker},
      link_(std::move(fd), [this](Frame&& frame) { receive(std::move(frame)); },
            [this] { staged_.clear(); }) {}

core::Result<void> ControlFollower::start() { return link_.start(); }

void ControlFollower::receive(Frame&& frame) {
    if (frame.kind == FrameKind::prepare) return prepare(frame);
    if (frame.id != id_) return;
    if (frame.kind == FrameKind::commit) {
        for (StagedPtr& staged : staged_) staged->commit();
        link_.send({FrameKind::committed, frame.id, {}});
    }
    staged_.clear();
    id_ = 0;
}

void ControlFollower::prepare(const Frame& frame) {
    staged_.clear();
    id_ = frame.id;
    std::vector<ControlItem> items;
    if (!decode_items(frame.text, items)) {
        return link_.send({FrameKind::refused, frame.id, "the change could not be read"});
    }
    auto staged = stage_items(items, place_);
    if (!staged) return link_.send({FrameKind::refused, frame.id, staged.error().what});
    staged_ = std::move(*staged);
    link_.send({FrameKind::staged, frame.id, {}});
}

}  // namespace server
