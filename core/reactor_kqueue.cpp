// The kqueue backend (BSD, macOS): as core/reactor_epoll.cpp.
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__OpenBSD__) || defined(__NetBSD__) || \
    defined(__DragonFly__)

#include <fcntl.h>
#include <sys/types.h>
#include <sys/event.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/reactor.h"

namespace core {

namespace {

constexpr int events_max = 512;                 // ready filters taken in one wait
constexpr uint64_t wake_token = ~uint64_t(0);

struct kevent change(int fd, int filter, int flags, uint64_t token) {
    struct kevent event;
    EV_SET(&event, uintptr_t(fd), filter, flags, 0, 0, reinterpret_cast<void*>(token));
    return event;
}

Error failed(const char* call) {
    return Error{std::string(call) + " failed: " + std::strerror(errno)};
}

}  // namespace

Result<void> Reactor::open_backend() {
    backend_fd_ = ::kqueue();
    int ends[2];
    if (backend_fd_ < 0) return failed("kqueue()");
    if (::pipe(ends) < 0) return failed("pipe()");
    wake_fd_ = ends[0];
    wake_write_fd_ = ends[1];
    for (int fd : ends) {
        ::fcntl(fd, F_SETFL, O_NONBLOCK);
        ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
    struct kevent event = change(wake_fd_, EVFILT_READ, EV_ADD, wake_token);
    if (::kevent(backend_fd_, &event, 1, nullptr, 0, nullptr) < 0) return failed("kevent()");
    return {};
}

void Reactor::close_backend() {
    ::close(wake_fd_);
    ::close(wake_write_fd_);
    ::close(backend_fd_);
    wake_fd_ = wake_write_fd_ = backend_fd_ = -1;
}

Result<void> Reactor::add(int fd, uint32_t slot, Watch::Mode mode) {
    uint64_t token = uint64_t(table_[slot].generation) << 32 | slot;
    bool edge = mode == Watch::edge;
    int flags = EV_ADD | (edge ? EV_CLEAR : 0);
    struct kevent events[2] = {change(fd, EVFILT_READ, flags, token),
                               change(fd, EVFILT_WRITE, flags, token)};
    if (::kevent(backend_fd_, events, edge ? 2 : 1, nullptr, 0, nullptr) < 0) {
        return failed("kevent()");
    }
    return {};
}

void Reactor::remove(int fd) {
    // One by one: a filter that was never added must not keep the other from going.
    for (int filter : {EVFILT_READ, EVFILT_WRITE}) {
        struct kevent event = change(fd, filter, EV_DELETE, 0);
        ::kevent(backend_fd_, &event, 1, nullptr, 0, nullptr);
    }
}

void Reactor::wait(int64_t timeout_ms) {
    struct kevent events[events_max];
    timespec limit{time_t(timeout_ms / 1000), long(timeout_ms % 1000) * 1000000};
    int count = ::kevent(backend_fd_, nullptr, 0, events, events_max,
                         timeout_ms < 0 ? nullptr : &limit);
    woke_up();
    for (int i = 0; i < count; ++i) {
        auto token = reinterpret_cast<uint64_t>(events[i].udata);
        if (token == wake_token) {
            char bytes[64];
            while (::read(wake_fd_, bytes, sizeof bytes) > 0) {}
            run_posted();
            continue;
        }
        uint8_t ready = events[i].filter == EVFILT_WRITE ? ready_write : ready_read;
        if (events[i].flags & (EV_EOF | EV_ERROR)) ready |= ready_hangup;
        dispatch(token, ready);
    }
}

void Reactor::post(std::function<void()> job) {
    {
        std::lock_guard lock(posted_mutex_);
        posted_.push_back(std::move(job));
    }
    if (!woken_.exchange(true, std::memory_order_acq_rel)) {
        [[maybe_unused]] ssize_t n = ::write(wake_write_fd_, "", 1);
    }
}

}  // namespace core

#endif
