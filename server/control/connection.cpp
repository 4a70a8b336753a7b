// Clients of the control sockets. A slow or silent one costs a place until its time is up, and
// nothing else.
#include "server/control/connection.h"

#include <sys/socket.h>
#include <unistd.h>

#include <openssl/crypto.h>

#include <algorithm>

#include "core/json_writer.h"
#include "core/log.h"
#include "core/text.h"

namespace server {

namespace {

// Of a request without a token, before it is refused unread.
constexpr size_t strange_body_bytes_max = 64 * 1024;

const char* reason_of(int status) {
    switch (status) {
    case 200: return "OK";
    case 202: return "Accepted";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 409: return "Conflict";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 422: return "Unprocessable Content";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    default: return "Unknown";
    }
}

ControlAnswer error_answer(int status, const char* code, const char* what) {
    core::JsonWriter json;
    json.begin_object().key("error").begin_object();
    json.member("code", code).member("message", what).end_object().end_object();
    return {status, json.take()};
}

}  // namespace

ControlConnection::ControlConnection(ControlServer& server, core::Fd fd, std::string token,
                                     int64_t idle_ms)
    : server_(server), stream_(std::move(fd)), timer_(on_timeout, this), token_(std::move(token)),
      idle_ms_(idle_ms) {}

void ControlConnection::begin() {
    auto started = watch_.start(stream_.fd(), *this);
    if (!started) return close();
    timer_.set(idle_ms_);
}

void ControlConnection::on_timeout(void* self) {
    auto& it = *static_cast<ControlConnection*>(self);
    if (it.busy_) return it.timer_.set(it.idle_ms_);       // it is us that are slow
    it.close();
}

void ControlConnection::on_io(uint8_t ready) {
    auto alive = shared_from_this();
    if (!ended_ && (ready & core::ready_write)) write();
    if (!ended_ && (ready & core::ready_read)) read();
}

// Nothing is read while a request waits for its answer, or the client for none of the last ones.
void ControlConnection::read() {
    char room[16 * 1024];
    while (takes_more()) {
        core::IoResult result = stream_.read(room, sizeof room);
        if (result.status == core::Io::again) return;
        if (result.status != core::Io::done) return close();
        // A head has its time from its first byte on, however its bytes trickle in; each byte of
        // the body of somebody who may ask gives more.
        if (!begun_ || (http_.has_head() && allowed(http_.request()))) timer_.set(idle_ms_);
        begun_ = true;
        in_.append(room, size_t(result.bytes));
        proceed();
    }
}

void ControlConnection::proceed() {
    proceeding_ = true;
    bool more = true;
    while (more && takes_more() && !in_.empty()) {
        switch (http_.feed(in_)) {
        case ControlHttp::State::more:
            more = false;
            if (http_.body_bytes() > strange_body_bytes_max && !allowed(http_.request())) {
                turn_away();
            }
            break;
        case ControlHttp::State::wants_continue:
            if (!allowed(http_.request())) {
                turn_away();
                break;
            }
            out_ += "HTTP/1.1 100 Continue\r\n\r\n";
            write();
            break;
        case ControlHttp::State::refused:
            closing_ = true;
            answer(error_answer(http_.status(), "bad_request", http_.reason()));
            break;
        case ControlHttp::State::complete:
            busy_ = true;
            if (!http_.request().keep_alive) closing_ = true;
            if (allowed(http_.request())) {
                server_.handler_(shared_from_this(), http_.request());
            } else {
                turn_away();
            }
        }
    }
    proceeding_ = false;
}

// With asking again and again a stranger would keep the place.
void ControlConnection::turn_away() {
    closing_ = true;
    answer(error_answer(401, "unauthorized",
                        "this address wants \"Authorization: Bearer TOKEN\""));
}

// The comparison takes as long whatever the token is.
bool ControlConnection::allowed(const ControlRequest& request) const {
    if (token_.empty()) return true;
    constexpr core::Slice scheme = "Bearer ";
    core::Slice given = request.authorization;
    if (!core::istarts_with(given, scheme)) return false;
    given = core::trim(given.substr(scheme.size()));
    std::string same_size(token_.size(), '\0');
    std::copy_n(given.data(), std::min(given.size(), same_size.size()), same_size.data());
    bool same = CRYPTO_memcmp(same_size.data(), token_.data(), token_.size()) == 0;
    return same && given.size() == token_.size();
}

void ControlConnection::answer(const ControlAnswer& answer) {
    if (ended_) return;
    out_ += core::format("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\nCache-Control: no-store\r\n",
                         answer.status, reason_of(answer.status), answer.body.size() + 1);
    if (answer.etag) {
        out_ += core::format("ETag: \"%llu\"\r\n", static_cast<unsigned long long>(answer.etag));
    }
    if (answer.allow) out_ += std::string("Allow: ") + answer.allow + "\r\n";
    if (answer.status == 401) out_ += "WWW-Authenticate: Bearer\r\n";
    if (answer.status == 503) out_ += "Retry-After: 1\r\n";
    out_ += closing_ ? "Connection: close\r\n\r\n" : "\r\n";
    if (http_.request().method != "HEAD") out_ += answer.body + "\n";
    busy_ = begun_ = false;
    http_.next();
    timer_.set(idle_ms_);
    write();
}

void ControlConnection::write() {
    while (sent_ < out_.size()) {
        core::IoResult result = stream_.write(core::Slice(out_).substr(sent_));
        sent_ += size_t(result.bytes);
        if (result.bytes) timer_.set(idle_ms_);
        if (result.status == core::Io::again) return;
        if (result.status != core::Io::done) return close();
    }
    std::string().swap(out_);
    sent_ = 0;
    if (closing_ && !busy_) return close();
    if (proceeding_ || !takes_more()) return;
    proceed();
    read();
}

void ControlConnection::close() {
    if (ended_) return;
    ended_ = true;
    timer_.cancel();
    watch_.stop_closing();
    stream_.close();
    server_.ended(*this);
}

}  // namespace server
