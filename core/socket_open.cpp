// Opening sockets: listening and connecting, with all their options.
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "core/log.h"
#include "core/socket.h"
#include "core/text.h"

namespace core {

namespace {

// Keeps errno through the making of the text.
Error refused(const char* call, const Address& address) {
    int error = errno;
    Error result{format("%s %s failed (%d: %s)", call, address.text().c_str(), error,
                        error_name(error))};
    errno = error;
    return result;
}

bool set_option(int fd, int level, int name, int value) {
    return ::setsockopt(fd, level, name, &value, sizeof value) == 0;
}

Fd open_socket(int family, int type) {
#ifdef SOCK_NONBLOCK
    return Fd(::socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
#else
    Fd fd(::socket(family, type, 0));
    if (fd.valid()) {
        ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
        ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
    }
    return fd;
#endif
}

const char* set_before_bind(int fd, const Address& address, const ListenOptions& options) {
    bool inet = address.family() != AF_UNIX;
    if (inet && !set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)) return "setsockopt(SO_REUSEADDR)";
    if (inet && options.reuse_port && !set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1)) {
        return "setsockopt(SO_REUSEPORT)";
    }
    if (address.family() == AF_INET6 &&
        !set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, options.ipv6_only)) {
        return "setsockopt(IPV6_V6ONLY)";
    }
#ifdef SO_SETFIB
    if (options.set_fib >= 0 && !set_option(fd, SOL_SOCKET, SO_SETFIB, options.set_fib)) {
        return "setsockopt(SO_SETFIB)";
    }
#endif
    // A buffer size the kernel refuses is no reason not to serve.
    if (options.receive_buffer_bytes > 0) {
        set_option(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer_bytes);
    }
    if (options.send_buffer_bytes > 0) {
        set_option(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer_bytes);
    }
    return nullptr;
}

void set_keepalive(int fd, const ListenOptions& options) {
    if (!options.keepalive_set) return;
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, options.keepalive);
#ifdef TCP_KEEPIDLE
    if (options.keepalive_idle_s) {
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, options.keepalive_idle_s);
    }
#endif
    if (options.keepalive_interval_s) {
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, options.keepalive_interval_s);
    }
    if (options.keepalive_count) set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, options.keepalive_count);
}

// Whether the file at a Unix address is a socket nobody listens on: left behind by a crash.
bool is_stale(const Address& address, int type) {
    struct stat status;
    if (::stat(address.local.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) return false;
    Fd probe = open_socket(AF_UNIX, type);
    if (!probe.valid()) return false;
    return ::connect(probe.get(), &address.any, address.size) != 0 && errno == ECONNREFUSED;
}

bool bind_to(int fd, const Address& address, int type) {
    if (::bind(fd, &address.any, address.size) == 0) return true;
    if (address.family() != AF_UNIX || errno != EADDRINUSE) return false;
    if (!address.local.sun_path[0] || !is_stale(address, type)) {
        errno = EADDRINUSE;
        return false;
    }
    ::unlink(address.local.sun_path);
    return ::bind(fd, &address.any, address.size) == 0;
}

// What is worth having, but not worth refusing to start without.
void set_after_listen(int fd, const Address& address, const ListenOptions& options) {
    if (options.type == SOCK_DGRAM) {
#ifdef IP_PKTINFO
        // The address a datagram was sent to is the one to answer from.
        if (address.is_wildcard() && address.family() == AF_INET) {
            set_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
        }
        if (address.is_wildcard() && address.family() == AF_INET6) {
            set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
        }
#endif
        return;
    }
#ifdef TCP_FASTOPEN
    if (options.fast_open >= 0) set_option(fd, IPPROTO_TCP, TCP_FASTOPEN, options.fast_open);
#endif
#ifdef TCP_DEFER_ACCEPT
    if (options.deferred) set_option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
#endif
}

// The error for a connection that could not even be started.
Error not_connected() {
    int error = errno;
    Error result{error_name(error), Fault::upstream, true};
    errno = error;
    return result;
}

bool set_transparent(int fd, int family) {
#ifdef IP_TRANSPARENT
    if (family == AF_INET6) return set_option(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, 1);
    return set_option(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
#else
    errno = ENOTSUP;
    return (void)fd, (void)family, false;
#endif
}

bool bind_local(int fd, const ConnectOptions& options) {
    if (options.transparent && !set_transparent(fd, options.bind->family())) return false;
#ifdef IP_BIND_ADDRESS_NO_PORT
    // The port is chosen at connect(), when the kernel knows the whole pair: many more fit.
    if (options.type == SOCK_STREAM && options.bind->port() == 0) {
        set_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    }
#endif
    return ::bind(fd, &options.bind->any, options.bind->size) == 0;
}

}  // namespace

Result<Fd> listen_on(const Address& address, const ListenOptions& options) {
    Fd fd = open_socket(address.family(), options.type);
    if (!fd.valid()) return refused("socket()", address);
    if (const char* call = set_before_bind(fd.get(), address, options)) {
        return refused(call, address);
    }
    if (!bind_to(fd.get(), address, options.type)) return refused("bind() to", address);
    if (address.family() == AF_UNIX && address.local.sun_path[0]) {
        ::chmod(address.local.sun_path, 0666);   // as nginx: who may connect is the folder's matter
    }
    if (address.family() != AF_UNIX) set_keepalive(fd.get(), options);
    if (options.type == SOCK_STREAM && ::listen(fd.get(), options.backlog) != 0) {
        return refused("listen() to", address);
    }
    set_after_listen(fd.get(), address, options);
    return fd;
}

Result<Fd> connect_to(const Address& address, const ConnectOptions& options) {
    Fd fd = open_socket(address.family(), options.type);
    if (!fd.valid()) return not_connected();
    if (options.bind && address.family() != AF_UNIX && !bind_local(fd.get(), options)) {
        Error error = not_connected();
        error.fault = Fault::ours;
        return error;
    }
#ifdef __linux__
    // A name of its own, chosen by the kernel: answers to a datagram need one.
    if (address.family() == AF_UNIX && options.type == SOCK_DGRAM) {
        sockaddr_un own{};
        own.sun_family = AF_UNIX;
        if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&own), sizeof own.sun_family) != 0) {
            return not_connected();
        }
    }
#endif
    while (::connect(fd.get(), &address.any, address.size) != 0) {
        if (errno == EINTR) continue;
        if (errno == EINPROGRESS) break;
        return not_connected();
    }
    return fd;
}

}  // namespace core
