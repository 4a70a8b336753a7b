// FileWatcher on BSD and macOS. A watch is a descriptor of its own. A folder tells that entries
// were made or have left, not which; files that are written in place are not among its reports.
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__) || \
    defined(__DragonFly__)

#include <fcntl.h>
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>

#include "core/file_watcher.h"

namespace core {

namespace {

int watch_vnode(int queue, int fd, unsigned events, int flags) {
    struct kevent change;
    EV_SET(&change, uintptr_t(fd), EVFILT_VNODE, EV_ADD | flags, events, 0, nullptr);
    return ::kevent(queue, &change, 1, nullptr, 0, nullptr);
}

constexpr unsigned ends = NOTE_DELETE | NOTE_RENAME | NOTE_REVOKE;

}  // namespace

FileWatcher::FileWatcher(Reported reported, void* argument)
    : reported_(reported), argument_(argument) {}

FileWatcher::~FileWatcher() {
    for (auto& [watch, entry] : watched_) ::close(watch);
}

bool FileWatcher::reports_writing() { return false; }

bool FileWatcher::start() {
    if (fd_.valid() || failed_) return fd_.valid();
    fd_.reset(::kqueue());
    if (!fd_.valid() || !watch_.start(fd_.get(), *this, Watch::level_read)) {
        fd_.reset();
        failed_ = true;
    }
    return fd_.valid();
}

int FileWatcher::watched(int watch, bool is_folder) {
    unsigned events = is_folder ? NOTE_WRITE | NOTE_EXTEND | ends
                                : NOTE_WRITE | NOTE_EXTEND | NOTE_ATTRIB | ends;
    if (watch < 0) return -1;
    if (watch_vnode(fd_.get(), watch, events, is_folder ? EV_CLEAR : EV_ONESHOT) != 0) {
        int error = errno;
        ::close(watch);
        errno = error;
        return -1;
    }
    watched_[watch] = {1, is_folder};
    return watch;
}

int FileWatcher::add_file(int fd) {
    return start() ? watched(::fcntl(fd, F_DUPFD_CLOEXEC, 0), false) : -1;
}

int FileWatcher::add_folder(const char* path, bool) {
    return start() ? watched(::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), true) : -1;
}

void FileWatcher::remove(int watch) {
    if (watched_.erase(watch)) ::close(watch);
}

void FileWatcher::on_io(uint8_t) { poll(); }

void FileWatcher::poll() {
    if (!fd_.valid()) return;
    struct kevent events[64];
    struct timespec at_once = {};
    for (;;) {
        int count = ::kevent(fd_.get(), nullptr, 0, events, 64, &at_once);
        if (count <= 0) return;
        for (int i = 0; i < count; ++i) {
            int watch = int(events[i].ident);
            auto known = watched_.find(watch);
            if (known == watched_.end()) continue;
            What what = !known->second.is_folder         ? changed
                        : events[i].fflags & ends        ? gone
                                                         : unknown;
            if (what != unknown) remove(watch);
            reported_(argument_, {watch, what, {}, false});
        }
    }
}

}  // namespace core

#endif
