// FileWatcher on Linux. A watch of a file ends with its first report, so that a file which is
// written all the time costs one event per time it was cached.
#if defined(__linux__)

#include <sys/inotify.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/file_watcher.h"

namespace core {

namespace {

constexpr uint32_t file_events =
    IN_MODIFY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF | IN_ONESHOT;
// Who watches the same folder twice gets what both want.
constexpr uint32_t entry_events = IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                                  IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR | IN_MASK_ADD;
constexpr uint32_t folder_events = entry_events | IN_MODIFY | IN_CLOSE_WRITE;

FileWatcher::What what_of(uint32_t mask) {
    if (mask & (IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT)) return FileWatcher::gone;
    if (mask & (IN_CLOSE_WRITE | IN_MOVED_TO)) return FileWatcher::complete;
    if (mask & IN_CREATE) return FileWatcher::made;
    if (mask & (IN_DELETE | IN_MOVED_FROM)) return FileWatcher::left;
    return FileWatcher::written;
}

}  // namespace

FileWatcher::FileWatcher(Reported reported, void* argument)
    : reported_(reported), argument_(argument) {}

FileWatcher::~FileWatcher() = default;

bool FileWatcher::reports_writing() { return true; }

bool FileWatcher::start() {
    if (fd_.valid() || failed_) return fd_.valid();
    fd_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!fd_.valid() || !watch_.start(fd_.get(), *this, Watch::level_read)) {
        int error = errno;
        fd_.reset();
        failed_ = true;
        errno = error;
    }
    return fd_.valid();
}

int FileWatcher::watched(int watch, bool is_folder) {
    if (watch < 0) return -1;
    Watched& entry = watched_[watch];
    ++entry.users;
    entry.is_folder = is_folder;
    return watch;
}

int FileWatcher::add_file(int fd) {
    if (!start()) return -1;
    // By descriptor rather than by path: it is this file that is watched, whatever the path names
    // by now.
    char path[32];
    std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return watched(::inotify_add_watch(fd_.get(), path, file_events), false);
}

int FileWatcher::add_folder(const char* path, bool coarse) {
    if (!start()) return -1;
    return watched(::inotify_add_watch(fd_.get(), path, coarse ? entry_events : folder_events),
                   true);
}

void FileWatcher::remove(int watch) {
    auto at = watched_.find(watch);
    if (at == watched_.end() || --at->second.users > 0) return;
    watched_.erase(at);
    ::inotify_rm_watch(fd_.get(), watch);
}

void FileWatcher::on_io(uint8_t) { poll(); }

void FileWatcher::poll() {
    if (!fd_.valid()) return;
    alignas(inotify_event) char room[16384];
    for (;;) {
        ssize_t count = ::read(fd_.get(), room, sizeof room);
        if (count <= 0) return;
        for (char* at = room; at < room + count;) {
            inotify_event event;
            std::memcpy(&event, at, sizeof event);
            Slice name = event.len ? Slice(at + sizeof event) : Slice{};
            at += sizeof event + event.len;
            if (event.mask & IN_Q_OVERFLOW) {
                reported_(argument_, {-1, lost, {}, false});
                continue;
            }
            auto known = watched_.find(event.wd);
            if (known == watched_.end() || event.mask == IN_IGNORED) continue;
            What what = known->second.is_folder ? what_of(event.mask) : changed;
            if (what == gone) ::inotify_rm_watch(fd_.get(), event.wd);
            if (what == gone || what == changed) watched_.erase(known);
            reported_(argument_, {event.wd, what, name, (event.mask & IN_ISDIR) != 0});
        }
    }
}

}  // namespace core

#endif
