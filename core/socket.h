// Sockets: addresses, listening, connecting, and Stream, a connected byte stream that is read and
// written with the same calls whether or not TLS is spoken on it.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/result.h"
#include "core/slice.h"

namespace core {

class TlsSession;   // core/tls.h
struct TlsSessionDelete {
    void operator()(TlsSession* session) const;
};
using TlsSessionPtr = std::unique_ptr<TlsSession, TlsSessionDelete>;

// An owned descriptor.
class Fd {
  public:
    Fd() = default;
    explicit Fd(int fd) : fd_(fd) {}
    Fd(Fd&& from) noexcept : fd_(from.release()) {}
    Fd& operator=(Fd&& from) noexcept {
        if (this != &from) reset(from.release());
        return *this;
    }
    ~Fd() { reset(); }
    int get() const { return fd_; }
    bool valid() const { return fd_ >= 0; }
    int release() { int fd = fd_; fd_ = -1; return fd; }
    void reset(int fd = -1);

  private:
    int fd_ = -1;
};

// An IPv4, IPv6 or Unix address.
struct Address {
    union {
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
        sockaddr_un local;
    };
    socklen_t size = 0;

    Address() { any.sa_family = AF_UNSPEC; }
    int family() const { return any.sa_family; }
    int port() const;                       // 0 for Unix addresses
    void set_port(int port);
    // "127.0.0.1", "::1", "unix:/path" ("unix:" when unnamed); writes at most 64 + path bytes.
    std::string ip_text() const;
    Slice ip_into(char* room, size_t size) const;   // INET6_ADDRSTRLEN or 128 bytes are enough
    std::string text() const;               // with port: "127.0.0.1:80", "[::1]:80", "unix:/path"
    bool operator==(const Address& other) const;
    bool is_wildcard() const;

    static bool parse_ip(Slice text, Address& to);  // an IP literal, "[…]" allowed; port 0
    bool set_local_path(Slice path);                // a Unix address; false when too long
};

// An address in as few bytes as it takes, for what there are many of (client connections). The path
// of a Unix client, which hardly ever has one, is not kept.
class CompactAddress {
  public:
    CompactAddress() { ip_.v4.sin_family = AF_UNSPEC; }
    CompactAddress(const Address& from);
    operator Address() const;
    int family() const { return ip_.v4.sin_family; }
    int port() const { return Address(*this).port(); }
    Slice ip_into(char* room, size_t size) const { return Address(*this).ip_into(room, size); }
    std::string ip_text() const { return Address(*this).ip_text(); }
    std::string text() const { return Address(*this).text(); }

  private:
    union {
        sockaddr_in v4;
        sockaddr_in6 v6;
    } ip_;
};

// What "host:port", "*:port", "port", "unix:/path", "[::1]:80" name, without resolving anything.
struct HostPort {
    std::string host;           // empty for "*" or a bare port
    int port = 0;               // 0: none given
    bool is_unix = false;       // host is the path
};
Result<HostPort> parse_host_port(Slice text);

struct ListenOptions {
    int type = SOCK_STREAM;
    int backlog = 511;
    int receive_buffer_bytes = 0, send_buffer_bytes = 0;
    bool ipv6_only = true;
    bool reuse_port = false;
    bool deferred = false;
    int fast_open = -1;
    int set_fib = -1;
    bool keepalive_set = false, keepalive = false;
    int keepalive_idle_s = 0, keepalive_interval_s = 0, keepalive_count = 0;
};
// A Unix socket's file that nobody listens on any more is replaced. Errors have nginx's form,
// `bind() to 0.0.0.0:80 failed (98: Address already in use)`, and leave errno set.
Result<Fd> listen_on(const Address& address, const ListenOptions& options);

// Starts a non-blocking connect: the descriptor is connected or under way (writable once it is
// decided; then ask socket_error). error.what is strerror's text, and errno is left set.
struct ConnectOptions {
    const Address* bind = nullptr;
    bool transparent = false;
    int type = SOCK_STREAM;
};
Result<Fd> connect_to(const Address& address, const ConnectOptions& options = {});
int socket_error(int fd);                   // SO_ERROR

// The outcome of one read or write.
enum class Io : uint8_t { done, again, closed, failed };
struct IoResult {
    Io status;
    // Bytes moved. A write that is `again` or `failed` may have moved some before; a read of 0
    // bytes is `closed`.
    int64_t bytes = 0;
    int error = 0;          // errno, for failed; a TLS failure is EPROTO (TlsSession::error_text)
    bool drained = false;   // a read shorter than its room: nothing more is there now
};

// A connected, non-blocking socket. Never blocks, never raises SIGPIPE.
class Stream {
  public:
    Stream() = default;
    explicit Stream(Fd fd) : fd_(std::move(fd)) {}
    Stream(Stream&&) noexcept;
    Stream& operator=(Stream&&) noexcept;
    ~Stream();

    int fd() const { return fd_.get(); }
    bool valid() const { return fd_.valid(); }
    IoResult read(char* to, size_t room);
    IoResult write(Slice bytes);   // `done` also when only a part went: see bytes
    // Writes as much of the chain as the socket takes (at most bytes_max) in as few system calls as
    // possible, and consumes it. `done`: all of that is with the kernel; `again`: the socket is
    // full, go on when it is writable. A file that is shorter than its range is `failed`, ENODATA.
    IoResult write(Chain& chain, int64_t bytes_max = INT64_MAX);
    Fd release() { return std::move(fd_); }
    void close();
    void reset();            // closes with RST (SO_LINGER 0)
    void shutdown_write();

    TlsSession* tls() const { return tls_.get(); }
    // From now on everything goes through the session, which was made for this descriptor.
    void set_tls(TlsSessionPtr session);

  private:
    Fd fd_;
    TlsSessionPtr tls_;
};

void set_nodelay(int fd, bool on = true);
Address local_address(int fd);
Address peer_address(int fd);

}  // namespace core
