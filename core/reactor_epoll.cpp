// The epoll backend (Linux).
#if defined(__linux__)

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/reactor.h"

namespace core {

namespace {
constexpr int events_max = 512;                 // ready descriptors taken in one wait
constexpr uint64_t wake_token = ~uint64_t(0);
}  // namespace

Result<void> Reactor::open_backend() {
    backend_fd_ = epoll_create1(EPOLL_CLOEXEC);
    wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (backend_fd_ < 0 || wake_fd_ < 0) {
        return Error{std::string("epoll_create1() failed: ") + std::strerror(errno)};
    }
    wake_write_fd_ = wake_fd_;
    epoll_event event{EPOLLIN, {.u64 = wake_token}};
    if (epoll_ctl(backend_fd_, EPOLL_CTL_ADD, wake_fd_, &event) < 0) {
        return Error{std::string("epoll_ctl() failed: ") + std::strerror(errno)};
    }
    return {};
}

void Reactor::close_backend() {
    ::close(wake_fd_);
    ::close(backend_fd_);
    wake_fd_ = backend_fd_ = -1;
}

Result<void> Reactor::add(int fd, uint32_t slot, Watch::Mode mode) {
    epoll_event event;
    event.data.u64 = uint64_t(table_[slot].generation) << 32 | slot;
    switch (mode) {
        case Watch::edge: event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET; break;
        case Watch::level_read: event.events = EPOLLIN; break;
        case Watch::level_read_exclusive: event.events = EPOLLIN | EPOLLEXCLUSIVE; break;
    }
    if (epoll_ctl(backend_fd_, EPOLL_CTL_ADD, fd, &event) < 0) {
        return Error{std::string("epoll_ctl() failed: ") + std::strerror(errno)};
    }
    return {};
}

void Reactor::remove(int fd) {
    epoll_event unused;
    epoll_ctl(backend_fd_, EPOLL_CTL_DEL, fd, &unused);
}

void Reactor::wait(int64_t timeout_ms) {
    epoll_event events[events_max];
    int timeout = timeout_ms > INT32_MAX ? INT32_MAX : int(timeout_ms);
    int count = epoll_wait(backend_fd_, events, events_max, timeout);
    woke_up();
    for (int i = 0; i < count; ++i) {
        if (events[i].data.u64 == wake_token) {
            uint64_t value;
            [[maybe_unused]] ssize_t n = ::read(wake_fd_, &value, sizeof value);
            run_posted();
            continue;
        }
        uint32_t bits = events[i].events;
        uint8_t ready = 0;
        if (bits & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) ready |= ready_read;
        if (bits & (EPOLLOUT | EPOLLHUP | EPOLLERR)) ready |= ready_write;
        if (bits & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) ready |= ready_hangup;
        dispatch(events[i].data.u64, ready);
    }
}

void Reactor::post(std::function<void()> job) {
    {
        std::lock_guard lock(posted_mutex_);
        posted_.push_back(std::move(job));
    }
    if (!woken_.exchange(true, std::memory_order_acq_rel)) {
        uint64_t one = 1;
        [[maybe_unused]] ssize_t n = ::write(wake_write_fd_, &one, sizeof one);
    }
}

}  // namespace core

#endif
