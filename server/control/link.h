// ControlLink: one end of the socket pair between the master and a worker, on which changes travel
// as frames. Used by control.cpp (the master's end) and follower.cpp (a worker's). Never blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/reactor.h"
#include "core/result.h"
#include "core/socket.h"
#include "server/control/resource.h"

namespace server {

enum class FrameKind : uint8_t {
    prepare = 1,        // to a worker: items to stage
    commit = 2,
    abort = 3,
    staged = 4,         // from a worker
    refused = 5,        // with the reason
    committed = 6,
};

struct Frame {
    FrameKind kind;
    uint64_t id;        // of the transaction
    std::string text;
};

std::string encode_frame(const Frame& frame);
// Takes one frame off the front of `bytes`. False: there is none yet; `broken`: nor will be.
bool take_frame(std::string& bytes, Frame& frame, bool& broken);
std::string encode_items(const std::vector<ControlItem>& items);
bool decode_items(core::Slice text, std::vector<ControlItem>& items);

class ControlLink : core::IoHandler {
  public:
    using Received = std::function<void(Frame&& frame)>;
    using Closed = std::function<void()>;      // may destroy neither this nor its owner

    ControlLink(core::Fd fd, Received received, Closed closed);
    core::Result<void> start();
    void send(const Frame& frame);
    // The descriptor, in a forked process that has nothing to do with this.
    void forget();

  private:
    void on_io(uint8_t ready) override;
    void read();
    void write();
    void end();

    core::Stream stream_;
    core::Watch watch_;
    Received received_;
    Closed closed_;
    std::string in_, out_;
    size_t sent_ = 0;
    bool ended_ = false;
};

}  // namespace server
