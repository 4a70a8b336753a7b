// Watching files with inotify. Called by FileCache. A watch ends with its first report, so that a
// file which is written all the time costs one event per time it was cached.
#include "server/http/file_watcher.h"

#ifdef __linux__
#include <sys/inotify.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#endif

namespace server {

FileWatcher::FileWatcher(Changed changed, void* argument)
    : changed_(changed), argument_(argument) {}

#ifdef __linux__

bool FileWatcher::start() {
    if (fd_.valid() || failed_) return fd_.valid();
    fd_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!fd_.valid() || !watch_.start(fd_.get(), *this, core::Watch::level_read)) {
        fd_.reset();
        failed_ = true;
    }
    return fd_.valid();
}

int FileWatcher::add(int fd) {
    if (!start()) return -1;
    // By descriptor rather than by path: it is this file that is watched, whatever the path names
    // by now.
    char path[32];
    std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int watch = ::inotify_add_watch(fd_.get(), path,
                                    IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF |
                                        IN_ONESHOT);
    if (watch >= 0) ++users_[watch];
    return watch;
}

void FileWatcher::remove(int watch) {
    auto at = users_.find(watch);
    if (at == users_.end() || --at->second > 0) return;
    users_.erase(at);
    ::inotify_rm_watch(fd_.get(), watch);
}

void FileWatcher::on_io(uint8_t) {
    alignas(inotify_event) char room[4096];
    for (;;) {
        ssize_t count = ::read(fd_.get(), room, sizeof room);
        if (count <= 0) return;
        for (char* at = room; at < room + count;) {
            inotify_event event;
            std::memcpy(&event, at, sizeof event);
            at += sizeof event + event.len;
            if (event.mask & IN_Q_OVERFLOW) {
                changed_(argument_, -1);
            } else if (users_.erase(event.wd)) {
                changed_(argument_, event.wd);
            }
        }
    }
}

#else

bool FileWatcher::start() { return false; }
int FileWatcher::add(int) { return -1; }
void FileWatcher::remove(int) {}
void FileWatcher::on_io(uint8_t) {}

#endif

}  // namespace server
