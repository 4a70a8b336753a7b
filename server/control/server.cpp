// The control sockets themselves: bound before anyone else may connect, put in place at once.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/log.h"
#include "core/text.h"
#include "server/control/connection.h"

namespace server {

namespace {

constexpr size_t connections_max = 64;     // by token, and as many by Unix socket
constexpr int64_t retry_ms = 500;

core::Error failed(const std::string& call, const std::string& what) {
    int error = errno;
    return core::Error{core::format("%s %s failed (%d: %s)", call.c_str(), what.c_str(), error,
                                    core::error_name(error))};
}

core::Fd accept_one(int listener) {
#ifdef SOCK_NONBLOCK
    return core::Fd(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
#else
    core::Fd fd(::accept(listener, nullptr, nullptr));
    if (fd.valid()) {
        ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
        ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
    }
    return fd;
#endif
}

// The other end of a Unix socket is root's or this user's.
bool is_one_of_us(int fd) {
#ifdef SO_PEERCRED
    ucred peer{};
    socklen_t size = sizeof peer;
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return false;
    uid_t uid = peer.uid;
#else
    uid_t uid = uid_t(-1);
    gid_t gid;
    if (::getpeereid(fd, &uid, &gid) != 0) return false;
#endif
    return uid == 0 || uid == ::geteuid();
}

// Also one who takes no connections just now: nothing here waits for that.
bool somebody_listens(const core::Address& address) {
    core::Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!probe.valid()) return false;
    ::fcntl(probe.get(), F_SETFL, O_NONBLOCK);
    return ::connect(probe.get(), &address.any, address.size) == 0 || errno == EAGAIN;
}

void say_and_close(core::Fd fd, core::Slice text) {
    ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

constexpr core::Slice forbidden_text =
    "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n"
    "Content-Length: 83\r\n\r\n"
    "{\"error\":{\"code\":\"forbidden\","
    "\"message\":\"only root and the server's user may ask\"}}\n";
constexpr core::Slice full_text =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    "Retry-After: 1\r\nContent-Length: 67\r\n\r\n"
    "{\"error\":{\"code\":\"busy\",\"message\":\"too many control connections\"}}\n";

constexpr size_t body_of(core::Slice text) { return text.size() - text.find("\r\n\r\n") - 4; }
static_assert(body_of(forbidden_text) == 83 && body_of(full_text) == 67);

}  // namespace

// A Unix socket is made beside its place, closed to others, and moved there when it listens: nobody
// sees it with another mode, and clients find either the old one or the new.
core::Result<void> ControlServer::Listener::bind(bool take_over) {
    if (at.path.empty()) {
        core::ListenOptions options;
        options.backlog = int(connections_max);
        auto bound = core::listen_on(at.address, options);
        if (!bound) return bound.take_error();
        fd = std::move(*bound);
        return {};
    }
    if (!take_over && somebody_listens(at.address)) {
        return core::Error{"control_socket \"" + at.path + "\": another server listens there"};
    }
    core::Address aside;
    std::string name = at.path + ".new";
    if (!aside.set_local_path(name)) {
        return core::Error{"control_socket \"" + at.path + "\": the path is too long"};
    }
    ::unlink(name.c_str());
    fd.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return failed("socket()", name);
    if (::bind(fd.get(), &aside.any, aside.size) != 0) return failed("bind()", "unix:" + name);
    if (::chmod(name.c_str(), 0600) != 0) return failed("chmod()", name);
    ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
    if (::listen(fd.get(), int(connections_max)) != 0) return failed("listen()", "unix:" + name);
    return {};
}

core::Result<void> ControlServer::Listener::publish() {
    if (at.path.empty()) return {};
    std::string name = at.path + ".new";
    if (::rename(name.c_str(), at.path.c_str()) != 0) return failed("rename()", name);
    struct stat status;
    if (::stat(at.path.c_str(), &status) == 0) {
        device = status.st_dev;
        inode = status.st_ino;
    }
    return {};
}

bool ControlServer::Listener::is_ours() const {
    struct stat status;
    return !at.path.empty() && ::stat(at.path.c_str(), &status) == 0 && status.st_dev == device &&
           status.st_ino == inode;
}

void ControlServer::Listener::on_io(uint8_t) { server->accept_from(*this); }

void ControlServer::Listener::listen_again() {
    if (!watch.start(fd.get(), *this, core::Watch::level_read)) retry.set(retry_ms);
}

ControlServer::~ControlServer() {
    if (running_) stop();
    roll_back();
    remove_files();
}

core::Result<void> ControlServer::open(const std::vector<ControlAddress>& wanted, bool take_over) {
    for (Listener& listener : held_) listener.wanted = false;
    for (const ControlAddress& address : wanted) {
        auto same = std::find_if(held_.begin(), held_.end(), [&](const Listener& listener) {
            return listener.at.path == address.path && listener.at.address == address.address;
        });
        if (same != held_.end()) {
            same->at.token = address.token;
            same->wanted = true;
            continue;
        }
        Listener& listener = held_.emplace_back();
        listener.server = this;
        listener.at = address;
        listener.wanted = listener.fresh = true;
        auto bound = listener.bind(take_over);
        if (!bound) {
            roll_back();
            return bound;
        }
    }
    return {};
}

core::Result<void> ControlServer::commit() {
    core::Result<void> done;
    held_.remove_if([](Listener& listener) {
        if (listener.wanted) return false;
        if (listener.is_ours()) ::unlink(listener.at.path.c_str());
        return true;
    });
    for (Listener& listener : held_) {
        if (!listener.fresh) continue;
        listener.fresh = false;
        auto published = listener.publish();
        if (published && running_) {
            published = listener.watch.start(listener.fd.get(), listener, core::Watch::level_read);
        }
        if (!published) done = std::move(published);
    }
    return done;
}

void ControlServer::roll_back() {
    held_.remove_if([](Listener& listener) {
        if (listener.fresh && !listener.at.path.empty()) {
            ::unlink((listener.at.path + ".new").c_str());
        }
        return listener.fresh;
    });
}

core::Result<void> ControlServer::start() {
    running_ = true;
    for (Listener& listener : held_) {
        auto started = listener.watch.start(listener.fd.get(), listener, core::Watch::level_read);
        if (!started) return started;
    }
    return {};
}

void ControlServer::stop() {
    running_ = false;
    for (Listener& listener : held_) {
        listener.watch.stop();
        listener.retry.cancel();
    }
    auto all = connections_;
    for (auto& connection : all) connection->close();
}

void ControlServer::close_all() {
    stop();
    remove_files();
    held_.clear();
}

void ControlServer::remove_files() {
    for (Listener& listener : held_) {
        if (listener.is_ours()) ::unlink(listener.at.path.c_str());
    }
}

void ControlServer::forget() {
    for (Listener& listener : held_) listener.fd.reset();
    for (auto& connection : connections_) connection->forget();
}

void ControlServer::reclaim() {
    for (Listener& listener : held_) {
        if (listener.at.path.empty() || listener.is_ours()) continue;
        listener.watch.stop();
        auto bound = listener.bind(true);
        if (bound) bound = listener.publish();
        if (bound && running_) {
            bound = listener.watch.start(listener.fd.get(), listener, core::Watch::level_read);
        }
        if (!bound) LOG(core::process_log(), error, 0, "%s", bound.error().what.c_str());
    }
}

std::string ControlServer::description() const {
    std::string text;
    for (const Listener& listener : held_) {
        text += (text.empty() ? "" : ", ") + listener.at.address.text();
    }
    return text;
}

void ControlServer::accept_from(Listener& listener) {
    core::Fd fd = accept_one(listener.fd.get());
    if (!fd.valid()) {
        if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
        LOG(core::process_log(), crit, errno, "accept4() of a control connection failed");
        listener.watch.stop();
        return listener.retry.set(retry_ms);
    }
    if (!listener.at.path.empty() && !is_one_of_us(fd.get())) {
        LOG(core::process_log(), warn, 0, "a control connection of another user was refused");
        return say_and_close(std::move(fd), forbidden_text);
    }
    // Whoever can reach an address cannot take the places of those who may use the socket.
    auto alike = std::count_if(connections_.begin(), connections_.end(), [&](const auto& each) {
        return each->wants_token() == !listener.at.token.empty();
    });
    if (size_t(alike) >= connections_max) return say_and_close(std::move(fd), full_text);
    auto connection = std::make_shared<ControlConnection>(*this, std::move(fd), listener.at.token);
    connections_.push_back(connection);
    connection->begin();
}

// Called from within the connection's own callbacks: it goes at the end of the turn.
void ControlServer::ended(ControlConnection& connection) {
    auto at = std::find_if(connections_.begin(), connections_.end(),
                           [&](const auto& each) { return each.get() == &connection; });
    if (at == connections_.end()) return;
    core::Reactor::current().post([gone = std::move(*at)] {});
    connections_.erase(at);
}

}  // namespace server
