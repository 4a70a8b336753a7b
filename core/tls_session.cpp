// One connection's TLS: handshake, records in and out. Called by Stream and by whoever drives the
// handshake.
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/tls.h"
#include "core/tls_wire.h"

namespace core {

namespace {

// One call's worth: OpenSSL takes an int.
constexpr size_t write_bytes_max = 1 << 30;

constexpr int64_t record_bytes_max = 16 * 1024;   // RFC 8446 5.1

// Where what does not lie in one piece, or lies in a file, is gathered: some records' worth.
struct Gathering {
    static constexpr size_t capacity = 4 * record_bytes_max;
    char bytes[capacity];
    size_t used;
};
thread_local std::unique_ptr<Gathering> gathering;

Gathering& empty_gathering() {
    if (!gathering) gathering.reset(new Gathering);   // not zeroed: most of it is never touched
    gathering->used = 0;
    return *gathering;
}

// Copies the front of the chain, file ranges included. 0, or an errno when nothing could be copied.
int fill(const Chain& chain, int64_t limit, Gathering& to) {
    size_t most = size_t(std::min(limit, int64_t(Gathering::capacity)));
    for (Buffer* at = chain.head(); at && to.used < most; at = at->next) {
        if (at->size() <= 0) continue;
        auto part = size_t(std::min(at->size(), int64_t(most - to.used)));
        if (!at->is_file()) {
            // A whole chunk is not copied: the next record is made from where it lies.
            if (to.used && at->size() >= int64_t(Chunk::capacity)) break;
            std::memcpy(to.bytes + to.used, at->begin, part);
            to.used += part;
            continue;
        }
        ssize_t got = ::pread(at->fd(), to.bytes + to.used, part, at->file_begin);
        if (got <= 0) return to.used ? 0 : got < 0 ? errno : ENODATA;
        to.used += size_t(got);
        if (size_t(got) < part) break;
    }
    return 0;
}

bool longer_than(const Chain& chain, int64_t bytes) {
    for (Buffer* at = chain.head(); at && bytes >= 0; at = at->next) bytes -= at->size();
    return bytes < 0;
}

// OpenSSL's queue is per thread and must be empty before a call whose failure is asked about.
void forget_errors() {
    if (ERR_peek_error()) ERR_clear_error();
}

// Whether a write of the first buffer alone would leave nothing of the chain.
bool stands_alone(const Chain& chain, int64_t limit) {
    Buffer* head = chain.head();
    if (head->size() >= std::min<int64_t>(limit, Chunk::capacity)) return true;
    for (Buffer* at = head->next; at; at = at->next) {
        if (at->size() > 0) return false;
    }
    return true;
}

}  // namespace

void TlsSessionDelete::operator()(TlsSession* session) const { delete session; }

TlsSessionPtr TlsSession::create(std::shared_ptr<TlsContext> context, int fd) {
    TlsSessionPtr session(new TlsSession);
    session->failed_ = true;           // until all is there
    if (!session->ssl_.make(context->native())) return nullptr;
    SSL* ssl = session->ssl_;
    session->fd_ = fd;
    if (!TlsWire::attach(*session)) return nullptr;
    session->failed_ = false;
    SSL_set_app_data(ssl, session.get());
    if (context->role() == TlsContext::Role::server) {
        SSL_set_accept_state(ssl);
        if (SSL_get_max_early_data(ssl) > 0) session->early_ = Early::untried;
    } else {
        SSL_set_connect_state(ssl);
    }
    session->context_ = std::move(context);
    return session;
}

std::shared_ptr<ssl_st> TlsSession::share() {
    ssl_st* shared = ssl_;
    SSL_up_ref(shared);
    return {shared, [](ssl_st* last) { SSL_free(TlsHandle::awake(last)); }};
}

ssl_st* TlsSession::pin(ssl_st* native) {
    native = TlsHandle::awake(native);
    auto* session = native ? static_cast<TlsSession*>(SSL_get_app_data(native)) : nullptr;
    return session ? session->pinned() : native;
}

TlsSession::~TlsSession() {
    if (ssl_) SSL_set_app_data(ssl_, nullptr);     // it may be shared, and live on
    // A session that was not shut down would be forgotten by the resumption cache.
    if (!failed_ && established()) {
        SSL_set_quiet_shutdown(ssl_, 1);
        SSL_shutdown(ssl_);
    }
    if (ssl_) TlsWire::forget(*this);
    forget_errors();
}

Result<void> TlsSession::set_server_name(const std::string& name) {
    Address literal;
    if (Address::parse_ip(name, literal)) return {};   // RFC 6066 3: names only
    ERR_clear_error();
    if (SSL_set_tlsext_host_name(ssl_, name.c_str())) return {};
    return Error{"SSL_set_tlsext_host_name(\"" + name + "\") failed" + take_tls_errors()};
}

Result<void> TlsSession::check_name(const std::string& name) {
    X509_VERIFY_PARAM* parameters = SSL_get0_param(ssl_);
    Address literal;
    ERR_clear_error();
    bool set = Address::parse_ip(name, literal)
                   ? X509_VERIFY_PARAM_set1_ip_asc(parameters, literal.ip_text().c_str())
                   : X509_VERIFY_PARAM_set1_host(parameters, name.data(), name.size());
    if (set) return {};
    return Error{"X509_VERIFY_PARAM_set1_host(\"" + name + "\") failed" + take_tls_errors()};
}

void TlsSession::resume(SSL_SESSION* session) { SSL_set_session(ssl_, session); }

// Translates what an SSL_* call returned. Must come right after it.
IoResult TlsSession::outcome(int result, int saved_errno) {
    switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_NONE: return {Io::done, result};
    case SSL_ERROR_WANT_READ: wants_ = Wants::read; return {Io::again};
    case SSL_ERROR_WANT_WRITE: wants_ = Wants::write; return {Io::again};
    case SSL_ERROR_ZERO_RETURN: return {Io::closed};
    // A callback (a certificate being fetched) will say when to go on.
    case SSL_ERROR_WANT_X509_LOOKUP:
    case SSL_ERROR_WANT_RETRY_VERIFY:
    case SSL_ERROR_WANT_CLIENT_HELLO_CB: wants_ = Wants::read; return {Io::again};
    case SSL_ERROR_SYSCALL:
        failed_ = true;
        ERR_clear_error();
        if (saved_errno == 0) return {Io::closed};
        return {Io::failed, 0, saved_errno};
    default:
        failed_ = true;
        error_text_ = take_tls_errors();
        return {Io::failed, 0, EPROTO};
    }
}

// OpenSSL wants to be asked for early data before anything else. `done`: there is some, and it is
// the beginning of a request; or, with nothing held, there is none.
IoResult TlsSession::begin_early_data() {
    forget_errors();
    errno = 0;
    size_t got = 0;
    int result = SSL_read_early_data(ssl_, &early_byte_, 1, &got);
    if (result == SSL_READ_EARLY_DATA_ERROR) return outcome(0, errno);
    bool some = result == SSL_READ_EARLY_DATA_SUCCESS;
    early_ = some ? Early::reading : Early::none;
    early_byte_held_ = some && got == 1;
    return {Io::done};
}

IoResult TlsSession::handshake_step() {
    if (early_ == Early::untried) [[unlikely]] {
        IoResult begun = begin_early_data();
        if (begun.status != Io::done || early_ == Early::reading) return begun;
    }
    forget_errors();
    errno = 0;
    int result = SSL_do_handshake(ssl_);
    IoResult moved = outcome(result, errno);
    moved.bytes = 0;
    return moved;
}

IoResult TlsSession::handshake(Peer peer) {
    if (failed_) return {Io::failed, 0, EPROTO};
    if (held_) [[unlikely]] {
        IoResult before = conclude_handshake({early_ == Early::reading ? Io::done : Io::again});
        if (held_ || failed_ || before.status == Io::done) return before;
    }
    input_ = Input::unknown;
    holding_ = true;
    IoResult moved = handshake_step();
    while (moved.status == Io::again && input_ == Input::short_read && SSL_want_read(ssl_) &&
           peer != Peer::is_there) {
        input_ = Input::unknown;
        moved = handshake_step();
    }
    holding_ = false;
    if (in_use_ && moved.status == Io::done) return moved;
    return held_ ? conclude_handshake(moved) : moved;
}

IoResult TlsSession::handshake_before_use(Peer peer) {
    in_use_ = true;
    IoResult moved = handshake(peer);
    in_use_ = moved.status == Io::done;
    return moved;
}

void TlsSession::say_rest() {
    in_use_ = false;
    if (held_) TlsWire::push(*this);     // if there is no room: with whatever is said next
}

// Sends what this step of a handshake has to say: a flight, tickets, an alert.
IoResult TlsSession::conclude_handshake(IoResult moved) {
    IoResult pushed = TlsWire::push(*this);
    if (pushed.status == Io::again) {
        if (moved.status == Io::failed) return moved;
        wants_ = Wants::write;      // the next call goes on from here
        return {Io::again};
    }
    if (pushed.status != Io::failed) return moved;
    held_->drop();
    held_ = nullptr;
    // A client that left after its request does not need the tickets; the request may be there.
    if (moved.status != Io::again) return moved;
    failed_ = true;
    return pushed;
}

IoResult TlsSession::read_early_data(char* to, size_t room) {
    size_t total = 0;
    if (early_byte_held_ && room) {
        early_byte_held_ = false;
        to[total++] = early_byte_;
    }
    while (total < room) {
        forget_errors();
        errno = 0;
        size_t got = 0;
        int result = SSL_read_early_data(ssl_, to + total, room - total, &got);
        total += got;
        if (result == SSL_READ_EARLY_DATA_FINISH) {
            early_ = Early::over;
            break;
        }
        if (result == SSL_READ_EARLY_DATA_SUCCESS) continue;
        IoResult step = outcome(0, errno);
        if (step.status == Io::again && !total && input_ == Input::short_read) {
            input_ = Input::unknown;
            continue;
        }
        if (total) return {Io::done, int64_t(total), 0, step.status == Io::again};
        return step;
    }
    return {Io::done, int64_t(total)};
}

IoResult TlsSession::read(char* to, size_t room) {
    if (failed_) return {Io::failed, 0, EPROTO};
    if (!in_use_) [[likely]] {
        input_ = Input::unknown;
        if (held_) [[unlikely]] TlsWire::push(*this);
    }
    if (early_ == Early::reading) [[unlikely]] {
        IoResult early = read_early_data(to, room);
        if (early.status != Io::done || early.bytes > 0) return early;
    }
    size_t total = 0;
    while (total < room) {
        forget_errors();
        errno = 0;
        int got = SSL_read(ssl_, to + total, int(std::min<size_t>(room - total, INT32_MAX)));
        IoResult step = outcome(got, errno);
        if (step.status == Io::done) {
            total += size_t(step.bytes);
            if (!drained()) continue;
            return {Io::done, int64_t(total), 0, true};
        }
        if (step.status == Io::again && !total && input_ == Input::short_read) {
            input_ = Input::unknown;      // what came was not for the caller: is the end behind it?
            continue;
        }
        // What came before an end or an error is delivered first; the next call meets it again.
        if (total) return {Io::done, int64_t(total), 0, step.status == Io::again};
        return step;
    }
    return {Io::done, int64_t(total)};
}

IoResult TlsSession::write_some(const char* from, size_t bytes) {
    if (failed_) return {Io::failed, 0, EPROTO};
    bytes = std::min(bytes, write_bytes_max);
    input_ = Input::unknown;
    forget_errors();
    errno = 0;
    int sent = 0;
    if (early_ >= Early::reading && !established()) [[unlikely]] {
        size_t went = 0;               // before the client's Finished
        sent = SSL_write_early_data(ssl_, from, bytes, &went) == 1 ? int(went) : -1;
    } else {
        sent = SSL_write(ssl_, from, int(bytes));
    }
    IoResult step = outcome(sent, errno);
    // The record is made already: OpenSSL must be offered the same bytes again, and no fewer.
    unsent_ = step.status == Io::again ? std::min(bytes, size_t(record_bytes_max)) : 0;
    if (step.status == Io::closed) return {Io::failed, 0, EPIPE};
    return step;
}

IoResult TlsSession::write(Slice bytes) {
    if (bytes.empty()) return {Io::done};
    more_follows_ = false;
    return write_some(bytes.data(), bytes.size());
}

IoResult TlsSession::write_gathered(Chain& chain, int64_t limit) {
    Buffer* head = chain.head();
    if (!head->is_file() && stands_alone(chain, limit)) {
        auto size = size_t(std::min(head->size(), limit));
        more_follows_ = int64_t(size) > record_bytes_max ||
                        (int64_t(size) < limit && longer_than(chain, int64_t(size)));
        IoResult step = write_some(head->begin, size);
        if (step.status == Io::done) chain.consume(step.bytes);
        return step;
    }
    Gathering& from = empty_gathering();
    if (int error = fill(chain, limit, from)) return {Io::failed, 0, error};
    bool rest = int64_t(from.used) < limit && longer_than(chain, int64_t(from.used));
    size_t sent = 0;
    while (sent < from.used) {
        more_follows_ = rest || int64_t(from.used - sent) > record_bytes_max;
        IoResult step = write_some(from.bytes + sent, from.used - sent);
        if (step.status != Io::done) return {step.status, int64_t(sent), step.error};
        chain.consume(step.bytes);
        sent += size_t(step.bytes);
    }
    return {Io::done, int64_t(sent)};
}

// With kernel TLS: straight from the page cache.
IoResult TlsSession::write_file(Chain& chain, int64_t limit) {
    Buffer* head = chain.head();
    input_ = Input::unknown;
    forget_errors();
    errno = 0;
    ossl_ssize_t sent = SSL_sendfile(ssl_, head->fd(), head->file_begin,
                                     size_t(std::min(head->size(), limit)), 0);
    if (sent > 0) chain.consume(sent);
    if (sent > 0) return {Io::done, sent};
    if (sent == 0) return {Io::failed, 0, ENODATA};
    return outcome(int(sent), errno);
}

IoResult TlsSession::write(Chain& chain, int64_t bytes_max) {
    int64_t total = 0;
    for (;;) {
        chain.consume(0);   // marks
        if (chain.empty() || (total >= bytes_max && !unsent_)) return {Io::done, total};
        int64_t limit = std::max(bytes_max - total, int64_t(unsent_));
        bool by_kernel = chain.head()->is_file() && !unsent_ &&
                         BIO_get_ktls_send(SSL_get_wbio(ssl_)) && established();
        IoResult step = by_kernel ? write_file(chain, limit) : write_gathered(chain, limit);
        total += step.bytes;
        if (step.status == Io::done) continue;
        step.bytes = total;
        return step;
    }
}

IoResult TlsSession::shutdown() {
    if (failed_ || !established() || (SSL_get_shutdown(ssl_) & SSL_SENT_SHUTDOWN)) {
        return {Io::done};
    }
    more_follows_ = false;
    input_ = Input::unknown;
    forget_errors();
    errno = 0;
    int result = SSL_shutdown(ssl_);
    if (result >= 0) return {Io::done};
    return outcome(result, errno);
}

bool TlsSession::established() const { return SSL_is_init_finished(ssl_); }
bool TlsSession::resumed() const { return SSL_session_reused(ssl_); }

Slice TlsSession::alpn() const {
    const unsigned char* name = nullptr;
    unsigned size = 0;
    SSL_get0_alpn_selected(ssl_, &name, &size);
    return {reinterpret_cast<const char*>(name), size};
}

Slice TlsSession::server_name() const {
    const char* name = SSL_get_servername(ssl_, TLSEXT_NAMETYPE_host_name);
    return name ? Slice(name) : Slice();
}

const char* TlsSession::protocol() const { return SSL_get_version(ssl_); }
const char* TlsSession::cipher() const { return SSL_get_cipher_name(ssl_); }
size_t TlsSession::pending() const { return size_t(SSL_pending(ssl_)); }
bool TlsSession::drained() const {
    return input_ != Input::unknown && early_ != Early::reading && !SSL_has_pending(ssl_);
}
long TlsSession::verify_result() const { return SSL_get_verify_result(ssl_); }

std::string TlsSession::verify_error() const {
    return X509_verify_cert_error_string(verify_result());
}

}  // namespace core
