// ControlFollower: a worker's part in changes: it stages what the master sends, and commits or
// drops it when told. Made by the master's child process beside its Worker.
#pragma once

#include <vector>

#include "server/control/link.h"

namespace server {

class ControlFollower {
  public:
    ControlFollower(int worker, core::Fd fd);
    core::Result<void> start();

  private:
    void receive(Frame&& frame);
    void prepare(const Frame& frame);

    const ControlPlace place_;
    ControlLink link_;
    uint64_t id_ = 0;                      // of what is staged
    std::vector<StagedPtr> staged_;
};

}  // namespace server
