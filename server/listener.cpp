// Accepting: a bounded batch a turn, and no spinning when the machine is out of descriptors.
#include "server/listener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "server/config.h"
#include "server/http/connection.h"
#include "server/stream/session.h"
#include "server/worker.h"

namespace server {

namespace {

constexpr int64_t retry_ms = 500;

int accept_from(int fd, core::Address& peer) {
    peer.size = sizeof(sockaddr_un);
#ifdef SOCK_NONBLOCK
    return ::accept4(fd, &peer.any, &peer.size, SOCK_NONBLOCK | SOCK_CLOEXEC);
#else
    int accepted = ::accept(fd, &peer.any, &peer.size);
    if (accepted < 0) return accepted;
    ::fcntl(accepted, F_SETFL, O_NONBLOCK);
    ::fcntl(accepted, F_SETFD, FD_CLOEXEC);
    return accepted;
#endif
}

}  // namespace

Listener::Listener(Worker& worker, ListenAddress& listen, int fd, bool shared, int batch)
    : worker_(worker), listen_(listen), fd_(fd), shared_(shared), batch_(batch),
      retry_([](void* self) { static_cast<Listener*>(self)->resume(); }, this) {}

core::Result<void> Listener::start() {
    return watch_.start(fd_, *this,
                        shared_ ? core::Watch::level_read_exclusive : core::Watch::level_read);
}

void Listener::pause() {
    if (paused_) return;
    paused_ = true;
    watch_.stop();
    retry_.set(retry_ms);
}

void Listener::resume() {
    if (!paused_) return;
    paused_ = false;
    retry_.cancel();
    auto started = start();
    if (started) return;
    LOG(core::process_log(), alert, 0, "%s", started.error().what.c_str());
    pause();
}

void Listener::stop() {
    retry_.cancel();
    watch_.stop();
    paused_ = false;
}

// The watch is level-triggered: what a batch leaves is reported again in the next turn. So a batch
// begins with one, which saves the call that finds the queue empty, and grows while turns in a row
// leave something.
void Listener::on_io(uint8_t) {
    uint64_t turn = core::Reactor::current().turns();
    full_turns_ = turn == last_turn_ + 1 ? full_turns_ : 0;
    last_turn_ = turn;
    int batch = full_turns_ < 2 ? 1 : std::min(batch_, 1 << std::min(full_turns_ - 1, 10));
    for (int i = 0; i < batch && watch_.active(); ++i) {
        if (accept_one()) continue;
        full_turns_ = 0;
        return;
    }
    ++full_turns_;
}

// False when there is nothing more to accept now.
bool Listener::accept_one() {
    if (worker_.connection_count >= worker_.connections_max) {
        LOG(core::process_log(), alert, 0, "%llu worker_connections are not enough",
            static_cast<unsigned long long>(worker_.connections_max));
        worker_.pressure();
        return false;
    }
    core::Address peer;
    int accepted = accept_from(fd_, peer);
    if (accepted < 0) return accept_failed(errno);
    bump(worker_.counters.accepted);
    adopt(core::Fd(accepted), peer);
    return true;
}

bool Listener::accept_failed(int error) {
    switch (error) {
        case EAGAIN:
#if EWOULDBLOCK != EAGAIN
        case EWOULDBLOCK:
#endif
            return false;
        case EINTR:
            return true;
        case ECONNABORTED:
            LOG(core::process_log(), error, error, "accept4() failed");
            return true;
        case EMFILE:
        case ENFILE:
            LOG(core::process_log(), crit, error, "accept4() failed");
            worker_.pressure();
            return false;
        case ENOBUFS:
        case ENOMEM:
            LOG(core::process_log(), alert, error, "accept4() failed");
            worker_.pressure();
            return false;
        default:
            LOG(core::process_log(), alert, error, "accept4() failed");
            pause();     // whatever it is, it would come again at once
            return false;
    }
}

void Listener::adopt(core::Fd fd, const core::Address& peer) {
    core::Address from = peer;
    // An unnamed Unix peer: the kernel reports a family at most.
    if (listen_.address.family() == AF_UNIX) {
        from.any.sa_family = AF_UNIX;
        if (from.size < sizeof(sa_family_t)) from.size = sizeof(sa_family_t);
        if (from.size == sizeof(sa_family_t)) from.local.sun_path[0] = '\0';
    }
    ListenAddress& listen = listen_.specific.empty() ? listen_ : address_of(fd.get());
    if (listen.stream) return StreamSession::accept(worker_, listen, std::move(fd), from);
    Connection::accept(worker_, listen, std::move(fd), from);
}

// On a wildcard's socket: the configured address that the client really connected to.
ListenAddress& Listener::address_of(int fd) {
    core::Address local = core::local_address(fd);
    for (ListenAddress* specific : listen_.specific) {
        if (specific->address == local) return *specific;
    }
    return listen_;
}

}  // namespace server
