// Listener: accepts the connections of one listening socket in one worker. Owned by the Worker;
// hands what it accepts to Connection::accept.
#pragma once

#include "core/reactor.h"
#include "core/result.h"
#include "core/socket.h"

namespace server {

struct ListenAddress;
class Worker;

class Listener : public core::IoHandler {
  public:
    // `fd` stays the owner's (the process's set of listening sockets). `shared`: other workers wait
    // on the same socket; only some of them are woken for a connection.
    Listener(Worker& worker, ListenAddress& listen, int fd, bool shared, int batch);

    core::Result<void> start();
    // Stops for a moment: there is no place for another connection. Resumes by itself, or earlier
    // when resume() is called as a place comes free.
    void pause();
    void resume();
    bool paused() const { return paused_; }
    // For good.
    void stop();

    void on_io(uint8_t ready) override;

  private:
    bool accept_one();
    bool accept_failed(int error);
    void adopt(core::Fd fd, const core::Address& peer);
    ListenAddress& address_of(int fd);

    Worker& worker_;
    ListenAddress& listen_;
    const int fd_;
    const bool shared_;
    const int batch_;                // at most so many a turn
    int full_turns_ = 0;             // in a row in which a batch was filled
    uint64_t last_turn_ = 0;
    bool paused_ = false;
    core::Watch watch_;
    core::Timer retry_;
};

}  // namespace server
