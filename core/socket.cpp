// Streams: reading and writing a connected socket, and small socket helpers.
#include "core/socket.h"

#include <netinet/tcp.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/tls.h"

#ifdef __linux__
#include <sys/sendfile.h>
#endif

namespace core {

namespace {

constexpr int pieces_max = 64;
// A file range up to this size is read and goes with the memory before it in one call: cheaper
// than a sendfile() of its own.
constexpr int64_t read_file_bytes_max = 8192;
// As the kernel's own limit for one call.
constexpr int64_t send_bytes_max = 0x7ffff000;

IoResult failure(int error) {
    if (error == EAGAIN || error == EWOULDBLOCK) return {Io::again};
    return {Io::failed, 0, error};
}

// Up to 64 memory pieces from the front of the chain.
struct Gathered {
    iovec pieces[pieces_max];
    int count = 0;
    int64_t bytes = 0;
    bool more_follows = false;
};

// Reads a small file range into a chunk, in place. 0, or an errno.
int load_file(Buffer& buffer) {
    Chunk* chunk = Chunk::take();
    auto size = size_t(buffer.size());
    size_t got = 0;
    while (got < size) {
        ssize_t part = ::pread(buffer.fd(), chunk->data() + got, size - got,
                               buffer.file_begin + int64_t(got));
        if (part < 0 && errno == EINTR) continue;
        if (part <= 0) {
            int error = part < 0 ? errno : ENODATA;
            chunk->drop();
            return error;
        }
        got += size_t(part);
    }
    chunk->used = uint32_t(size);
    buffer.owner->drop();
    buffer.owner = chunk;
    buffer.begin = chunk->data();
    buffer.end = chunk->data() + size;
    buffer.flags &= uint8_t(~Buffer::file);
    return 0;
}

// 0, or an errno when nothing was gathered because a file could not be read.
int gather(const Chain& chain, int64_t limit, Gathered& to) {
    for (Buffer* at = chain.head(); at && to.bytes < limit; at = at->next) {
        int64_t size = at->size();
        if (size <= 0) continue;
        if (to.count == pieces_max || (at->is_file() && size > read_file_bytes_max)) {
            to.more_follows = true;
            break;
        }
        if (at->is_file()) {
            if (int error = load_file(*at)) {
                to.more_follows = true;
                return to.count ? 0 : error;
            }
        }
        size = std::min(size, limit - to.bytes);
        to.pieces[to.count++] = {const_cast<char*>(at->begin), size_t(size)};
        to.bytes += size;
    }
    return 0;
}

IoResult send_gathered(int fd, Gathered& what) {
    int flags = MSG_NOSIGNAL | (what.more_follows ? MSG_MORE : 0);
    for (;;) {
        ssize_t sent;
        if (what.count == 1) {
            sent = ::send(fd, what.pieces[0].iov_base, what.pieces[0].iov_len, flags);
        } else {
            msghdr message{};
            message.msg_iov = what.pieces;
            message.msg_iovlen = size_t(what.count);
            sent = ::sendmsg(fd, &message, flags);
        }
        if (sent >= 0) return {sent < what.bytes ? Io::again : Io::done, sent};
        if (errno != EINTR) return failure(errno);
    }
}

#ifdef __linux__
IoResult send_file(int fd, int file, int64_t from, int64_t bytes) {
    for (;;) {
        off_t at = from;
        ssize_t sent = ::sendfile(fd, file, &at, size_t(bytes));
        if (sent > 0) return {Io::done, sent};
        if (sent == 0) return {Io::failed, 0, ENODATA};
        if (errno != EINTR) return failure(errno);
    }
}
#else
IoResult send_file(int fd, int file, int64_t from, int64_t bytes) {
    char room[16384];
    ssize_t got = ::pread(file, room, size_t(std::min<int64_t>(bytes, sizeof room)), from);
    if (got == 0) return {Io::failed, 0, ENODATA};
    if (got < 0) return failure(errno);
    ssize_t sent = ::send(fd, room, size_t(got), MSG_NOSIGNAL);
    return sent >= 0 ? IoResult{Io::done, sent} : failure(errno);
}
#endif

// One system call's worth of the chain.
IoResult write_step(int fd, Chain& chain, int64_t limit) {
    Gathered memory;
    if (int error = gather(chain, limit, memory)) return {Io::failed, 0, error};
    if (memory.bytes) return send_gathered(fd, memory);
    chain.consume(0);   // marks before the file
    Buffer* head = chain.head();
    if (!head) return {Io::done, 0};
    return send_file(fd, head->fd(), head->file_begin, std::min(head->size(), limit));
}

}  // namespace

void Fd::reset(int fd) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
}

Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&& from) noexcept {
    tls_ = std::move(from.tls_);   // before the descriptor it speaks on goes
    fd_ = std::move(from.fd_);
    return *this;
}
Stream::~Stream() { tls_.reset(); }

IoResult Stream::read(char* to, size_t room) {
    if (tls_) [[unlikely]] return tls_->read(to, room);
    for (;;) {
        ssize_t got = ::recv(fd_.get(), to, room, 0);
        if (got > 0) return {Io::done, got, 0, size_t(got) < room};
        if (got == 0) return {Io::closed};
        if (errno != EINTR) return failure(errno);
    }
}

IoResult Stream::write(Slice bytes) {
    if (tls_) [[unlikely]] return tls_->write(bytes);
    for (;;) {
        ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent >= 0) return {Io::done, sent};
        if (errno != EINTR) return failure(errno);
    }
}

IoResult Stream::write(Chain& chain, int64_t bytes_max) {
    if (tls_) [[unlikely]] return tls_->write(chain, bytes_max);
    int64_t total = 0;
    for (;;) {
        IoResult step = write_step(fd_.get(), chain, std::min(bytes_max - total, send_bytes_max));
        chain.consume(step.bytes);
        step.bytes = total += step.bytes;
        if (step.status != Io::done || chain.empty() || total >= bytes_max) return step;
    }
}

// A peer of TLS is told that this is the end, and that nobody cut it short (RFC 8446 6.1).
void Stream::close() {
    if (tls_) tls_->shutdown();
    tls_.reset();
    fd_.reset();
}

void Stream::reset() {
    if (!valid()) return;
    linger abort{1, 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    tls_.reset();
    fd_.reset();
}

void Stream::shutdown_write() {
    if (tls_) tls_->shutdown();
    ::shutdown(fd_.get(), SHUT_WR);
}

void Stream::set_tls(TlsSessionPtr session) { tls_ = std::move(session); }

void set_nodelay(int fd, bool on) {
    int value = on;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value);
}

int socket_error(int fd) {
    int error = 0;
    socklen_t size = sizeof error;
    if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) return errno;
    return error;
}

Address local_address(int fd) {
    Address address;
    address.size = sizeof address.local;
    if (::getsockname(fd, &address.any, &address.size) != 0) return {};
    return address;
}

Address peer_address(int fd) {
    Address address;
    address.size = sizeof address.local;
    if (::getpeername(fd, &address.any, &address.size) != 0) return {};
    return address;
}

}  // namespace core
