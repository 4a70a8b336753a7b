// FileWatcher: asks the kernel to report changes of cached files (inotify). One per FileCache;
// where the kernel has none or refuses, nothing is watched and the cache looks for itself.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "core/reactor.h"
#include "core/socket.h"

namespace server {

class FileWatcher : public core::IoHandler {
  public:
    // Called from the loop: the file behind this watch has changed or gone; the watch has ended.
    using Changed = void (*)(void* argument, int watch);

    FileWatcher(Changed changed, void* argument);

    // A number that is the same for the same file, or -1. Each successful call needs a remove().
    int add(int fd);
    void remove(int watch);
    // Reads the reports that are waiting.
    void on_io(uint8_t ready) override;

  private:
    bool start();

    Changed changed_;
    void* argument_;
    core::Fd fd_;
    core::Watch watch_;
    bool failed_ = false;
    std::unordered_map<int, int> users_;
};

}  // namespace server
