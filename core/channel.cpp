// Messages with descriptors between processes, and the service manager's socket.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/log.h"
#include "core/process.h"
#include "core/text.h"

namespace core {

namespace {

IoResult outcome(ssize_t moved) {
    if (moved > 0) return {Io::done, moved};
    if (moved == 0) return {Io::closed};
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {Io::again};
    if (errno == EPIPE || errno == ECONNRESET) return {Io::closed};
    return {Io::failed, 0, errno};
}

}  // namespace

Result<void> Channel::open_pair(Channel& one, Channel& other) {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0) {
        int error = errno;
        return Error{format("socketpair() failed (%d: %s)", error, error_name(error))};
    }
    one.fd_.reset(fds[0]);
    other.fd_.reset(fds[1]);
    return {};
}

IoResult Channel::send(Slice text, int descriptor) {
    iovec piece{const_cast<char*>(text.data()), text.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (descriptor >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        cmsghdr* head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(head), &descriptor, sizeof descriptor);
    }
    ssize_t sent;
    while ((sent = ::sendmsg(fd_.get(), &message, MSG_NOSIGNAL)) < 0 && errno == EINTR) {}
    return outcome(sent);
}

IoResult Channel::receive(char* room, size_t size, Fd& descriptor) {
    iovec piece{room, size};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got;
    while ((got = ::recvmsg(fd_.get(), &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {}
    cmsghdr* head = got > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
        head->cmsg_len == CMSG_LEN(sizeof(int))) {
        int came;
        std::memcpy(&came, CMSG_DATA(head), sizeof came);
        descriptor.reset(came);
    }
    return outcome(got);
}

void notify_service_manager(Slice state) {
    static const std::string path = [] {
        const char* set = std::getenv("NOTIFY_SOCKET");
        return std::string(set ? set : "");
    }();
    Address address;
    if (path.empty() || !address.set_local_path(path)) return;
    // An abstract name is written with @ in place of its NUL, and has no NUL behind it.
    if (path[0] == '@') {
        address.local.sun_path[0] = '\0';
        --address.size;
    }
    Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return;
    ::sendto(fd.get(), state.data(), state.size(), MSG_NOSIGNAL, &address.any, address.size);
}

}  // namespace core
