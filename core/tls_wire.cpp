// A BIO over a socket whose state is the session's.
#include "core/tls_wire.h"

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/tls.h"

namespace core {

namespace {

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

ssize_t send_all_there_is(int fd, const char* from, size_t bytes, int flags) {
    for (;;) {
        ssize_t sent = ::send(fd, from, bytes, MSG_NOSIGNAL | flags);
        if (sent >= 0 || errno != EINTR) return sent;
    }
}

}  // namespace

TlsSession* TlsWire::of(BIO* bio) { return static_cast<TlsSession*>(BIO_get_data(bio)); }

int TlsWire::read(BIO* bio, char* to, int room) {
    BIO_clear_retry_flags(bio);
    TlsSession* session = of(bio);
    if (!session) return -1;
    if (session->input_ != TlsSession::Input::unknown) {
        BIO_set_retry_read(bio);
        errno = EAGAIN;
        return -1;
    }
    for (;;) {
        ssize_t got = ::recv(session->fd_, to, size_t(room), 0);
        if (got < 0 && errno == EINTR) continue;
        if (got == 0) session->ended_ = true;
        if (got < 0 && would_block(errno)) {
            session->input_ = TlsSession::Input::empty;
            BIO_set_retry_read(bio);
        } else if (got > 0 && got < room) {
            session->input_ = TlsSession::Input::short_read;
        }
        return int(got);
    }
}

bool TlsWire::hold(TlsSession& session, const char* from, int bytes) {
    if (!session.held_) session.held_ = Chunk::take();
    Chunk& held = *session.held_;
    if (held.room() < size_t(bytes)) return false;
    std::memcpy(held.data() + held.used, from, size_t(bytes));
    held.used += uint32_t(bytes);
    return true;
}

void TlsWire::drop_front(TlsSession& session, size_t bytes) {
    Chunk* held = session.held_;
    held->used -= uint32_t(bytes);
    if (held->used) {
        std::memmove(held->data(), held->data() + bytes, held->used);
        return;
    }
    held->drop();
    session.held_ = nullptr;
}

IoResult TlsWire::push(TlsSession& session) {
    Chunk* held = session.held_;
    if (!held) return {Io::done};
    ssize_t sent = send_all_there_is(session.fd_, held->data(), held->used, 0);
    if (sent < 0 && !would_block(errno)) return {Io::failed, 0, errno};
    if (sent > 0) drop_front(session, size_t(sent));
    return {session.held_ ? Io::again : Io::done};
}

int TlsWire::write(BIO* bio, const char* from, int bytes) {
    BIO_clear_retry_flags(bio);
    TlsSession* session = of(bio);
    if (!session) return -1;
    if (session->holding_ && hold(*session, from, bytes)) return bytes;
    ssize_t sent = session->held_ ? send_behind_held(*session, from, size_t(bytes))
                                  : send_all_there_is(session->fd_, from, size_t(bytes),
                                                      session->more_follows_ ? MSG_MORE : 0);
    if (sent < 0 && would_block(errno)) BIO_set_retry_write(bio);
    return int(sent);
}

// What is held and then this, in one call. As send(): of this alone.
ssize_t TlsWire::send_behind_held(TlsSession& session, const char* from, size_t bytes) {
    Chunk* held = session.held_;
    iovec pieces[] = {{held->data(), held->used}, {const_cast<char*>(from), bytes}};
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = 2;
    int flags = MSG_NOSIGNAL | (session.more_follows_ ? MSG_MORE : 0);
    ssize_t sent;
    do {
        sent = ::sendmsg(session.fd_, &message, flags);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) return sent;
    size_t gone = std::min(size_t(sent), size_t(held->used));
    drop_front(session, gone);
    if (size_t(sent) > gone) return ssize_t(size_t(sent) - gone);
    errno = EAGAIN;
    return -1;
}

long TlsWire::control(BIO* bio, int what, long, void* argument) {
    TlsSession* session = of(bio);
    switch (what) {
        case BIO_CTRL_FLUSH:
        case BIO_CTRL_DUP: return 1;
        case BIO_CTRL_EOF: return session && session->ended_;
        case BIO_C_GET_FD:
            if (!session) return -1;
            if (argument) *static_cast<int*>(argument) = session->fd_;
            return session->fd_;
        default: return 0;      // kernel TLS included
    }
}

const BIO_METHOD* TlsWire::method() {
    static BIO_METHOD* const made = [] {
        int type = BIO_get_new_index() | BIO_TYPE_SOURCE_SINK | BIO_TYPE_DESCRIPTOR;
        BIO_METHOD* method = BIO_meth_new(type, "resty-server socket");
        if (!method) return method;
        BIO_meth_set_read(method, read);
        BIO_meth_set_write(method, write);
        BIO_meth_set_ctrl(method, control);
        return method;
    }();
    return made;
}

bool TlsWire::attach(TlsSession& session) {
    // The kernel does TLS through OpenSSL's own BIO only.
    if (SSL_get_options(session.ssl_) & SSL_OP_ENABLE_KTLS) {
        return SSL_set_fd(session.ssl_, session.fd_);
    }
    BIO* bio = method() ? BIO_new(method()) : nullptr;
    if (!bio) return false;
    BIO_set_data(bio, &session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session.ssl_, bio, bio);
    return true;
}

void TlsWire::forget(TlsSession& session) {
    BIO* bio = SSL_get_rbio(session.ssl_);
    if (bio && BIO_method_type(bio) != BIO_TYPE_SOCKET) BIO_set_data(bio, nullptr);
    if (session.held_) session.held_->drop();
    session.held_ = nullptr;
}

}  // namespace core
