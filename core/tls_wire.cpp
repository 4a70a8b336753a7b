// A BIO over a socket whose state is the session's.
#include "core/tls_wire.h"

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

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

IoResult TlsWire::push(TlsSession& session) {
    Chunk* held = session.held_;
    if (!held) return {Io::done};
    ssize_t sent = held->used ? send_all_there_is(session.fd_, held->data(), held->used, 0) : 0;
    if (sent < 0 && !would_block(errno)) return {Io::failed, 0, errno};
    size_t left = held->used - (sent > 0 ? size_t(sent) : 0);
    if (left > 0) {
        if (sent > 0) std::memmove(held->data(), held->data() + sent, left);
        held->used = uint32_t(left);
        return {Io::again};
    }
    held->drop();
    session.held_ = nullptr;
    return {Io::done};
}

int TlsWire::write(BIO* bio, const char* from, int bytes) {
    BIO_clear_retry_flags(bio);
    TlsSession* session = of(bio);
    if (!session) return -1;
    if (session->holding_ && hold(*session, from, bytes)) return bytes;
    IoResult before = push(*session);
    if (before.status == Io::failed) {
        errno = before.error;
        return -1;
    }
    ssize_t sent = -1;
    if (before.status == Io::again) {
        errno = EAGAIN;
    } else {
        sent = send_all_there_is(session->fd_, from, size_t(bytes),
                                 session->more_follows_ ? MSG_MORE : 0);
    }
    if (sent < 0 && would_block(errno)) BIO_set_retry_write(bio);
    return int(sent);
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
