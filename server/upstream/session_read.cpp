// Reading the response: head, body, and what ends them.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/text.h"
#include "server/upstream/session.h"
#include "server/upstream/sticky.h"

namespace server {

namespace {

// A head, with the beginning of the body behind it, is read into one buffer for all sessions of the
// worker; body bytes are read into chunks that go on to the client as they are.
constexpr size_t scratch_bytes = 16 * 1024;
char scratch[scratch_bytes];

// Runs up to this size are copied: a chunk is not kept for them.
constexpr size_t copied_bytes_max = 2048;

struct Retry {
    int status;
    NextUpstream what;
};
constexpr Retry retries[] = {
    {500, NextUpstream::http_500}, {502, NextUpstream::http_502}, {503, NextUpstream::http_503},
    {504, NextUpstream::http_504}, {403, NextUpstream::http_403}, {404, NextUpstream::http_404},
    {429, NextUpstream::http_429},
};

}  // namespace

void UpstreamSession::receive() {
    if (receiving_) return;
    receiving_ = true;
    while (connection_ && connection_->readable && !paused_) {
        if (at_ == At::waiting) {
            read_head();
        } else if (at_ == At::reading) {
            read_body();
        } else {
            break;
        }
    }
    receiving_ = false;
}

// False: nothing was read (no more there, or the end, which has been dealt with).
bool UpstreamSession::read(char* to, size_t room, size_t& size) {
    core::IoResult got = connection_->stream.read(to, room);
    if (got.status == core::Io::done) {
        size = size_t(got.bytes);
        state_->bytes_received += got.bytes;
        if (got.drained && !connection_->hung_up) connection_->readable = false;
        return true;
    }
    connection_->readable = false;
    if (got.status != core::Io::again) {
        closed_by_upstream(got.status == core::Io::failed ? got.error : 0);
    }
    return false;
}

void UpstreamSession::read_head() {
    size_t size = 0;
    if (read(scratch, scratch_bytes, size)) take_head({scratch, size});
}

// What is not a whole head yet is kept; its size is limited by *_buffer_size.
void UpstreamSession::take_head(core::Slice bytes) {
    size_t limit = size_t(settings_.buffer_size->count);
    if (!head_.empty()) {
        char* joined = request_.arena.bytes(head_.size() + bytes.size());
        std::memcpy(joined, head_.data(), head_.size());
        std::memcpy(joined + head_.size(), bytes.data(), bytes.size());
        bytes = {joined, head_.size() + bytes.size()};
        head_ = {};
    }
    for (;;) {
        core::Slice rest = bytes;
        switch (protocol_.read_head(rest)) {
            case UpstreamProtocol::Head::complete:
                if (bytes.size() - rest.size() > limit) return head_too_big();
                return head_complete(rest);
            case UpstreamProtocol::Head::invalid: return fail(NextUpstream::invalid_header);
            case UpstreamProtocol::Head::interim:
                bytes = rest;
                if (!bytes.empty()) continue;
                break;
            case UpstreamProtocol::Head::incomplete: break;
        }
        break;
    }
    if (bytes.size() > limit) return head_too_big();
    if (!bytes.empty()) head_ = request_.arena.copy(bytes);
    timer_.set(timeout(settings_.read_timeout->count, decision_.read_ms));
}

void UpstreamSession::head_too_big() {
    LOG(log_, error, 0, "upstream sent too big header");
    fail(NextUpstream::invalid_header);
}

void UpstreamSession::head_complete(core::Slice rest) {
    int64_t now_ms = core::Clock::monotonic_ms();
    state_->header_ms = now_ms - try_ms_;
    clock_.head_came();
    state_->status = protocol_.status();
    if (choice_.inflight) {
        PeerLock lock(*store_);
        note_header_time(choice_, state_->header_ms);
    }
    if (protocol_.status() >= 300 && ask_next_for_status()) return;
    if (protocol_.status() == 101) return begin_tunnel(rest);
    if (group_ && group_->sticky && choice_.current) {
        group_->sticky->chosen(request_, *choice_.current);
    }
    Verdict verdict = protocol_.accept_head();
    if (verdict.is(Verdict::passed)) verdict = request_.send_header();
    if (!verdict.is(Verdict::passed)) {
        finish_try();
        leave_peer(TryEnd::passed);
        bool whole = protocol_.body_state() == UpstreamProtocol::Body::complete && rest.empty();
        release_connection(whole && protocol_.keeps_connection());
        return conclude(verdict);
    }
    at_ = At::reading;
    log_.action = "reading upstream";
    take_body(rest, nullptr);
}

// A status that *_next_upstream names: another server may know better.
bool UpstreamSession::ask_next_for_status() {
    for (const Retry& retry : retries) {
        if (retry.status != protocol_.status()) continue;
        if (choice_.tries <= 1 || !may_repeat(retry.what)) return false;
        fail(retry.what);
        return true;
    }
    return false;
}

void UpstreamSession::read_body() {
    size_t room = core::Chunk::capacity;
    if (int64_t allowed = rate_room(); allowed <= 0) {
        paused_ = true;
        return;
    } else {
        room = size_t(std::min<int64_t>(int64_t(room), allowed));
    }
    core::Chunk* chunk = core::Chunk::take();
    size_t size = 0;
    if (read(chunk->data(), room, size)) {
        chunk->used = uint32_t(size);
        take_body({chunk->data(), size}, chunk);
    }
    chunk->drop();
}

void UpstreamSession::take_body(core::Slice bytes, core::Owner* owner) {
    core::Chain piece;
    core::Slice rest = bytes;
    for (;;) {
        core::Slice run = protocol_.next_body(rest);
        if (run.empty()) break;
        state_->response_bytes += int64_t(run.size());
        if (owner && run.size() > copied_bytes_max) {
            owner->hold();
            piece.add(run, owner);
        } else {
            piece.add_copy(run);
        }
    }
    switch (protocol_.body_state()) {
        case UpstreamProtocol::Body::complete: return body_over(std::move(piece), rest.empty());
        case UpstreamProtocol::Body::bad:
            LOG(log_, error, 0, "upstream sent invalid chunked response");
            if (!piece.empty()) relay_.send(std::move(piece));
            return break_off();
        case UpstreamProtocol::Body::more: break;
    }
    if (!settings_.buffering && !piece.empty()) piece.add_mark(core::Buffer::flush);
    if (!piece.empty() && !relay_.send(std::move(piece))) return break_off();
    timer_.set(timeout(settings_.read_timeout->count, decision_.read_ms));
    if (relay_.blocked()) {
        paused_ = true;
        timer_.cancel();
        relay_.want_room();
    }
}

// Bytes that *_limit_rate lets be read now; when there are none the timer is set.
int64_t UpstreamSession::rate_room() {
    if (limit_rate_ <= 0) return INT64_MAX;
    int64_t elapsed_ms = core::Clock::monotonic_ms() - try_ms_;
    int64_t allowed = limit_rate_ * (elapsed_ms / 1000 + 1) - state_->response_bytes;
    if (allowed <= 0) {
        timer_.cancel();
        rate_timer_.set(-allowed * 1000 / limit_rate_ + 1);
    }
    return allowed;
}

void UpstreamSession::on_relay_room() {
    if (!paused_ || at_ != At::reading) return;
    paused_ = false;
    timer_.set(timeout(settings_.read_timeout->count, decision_.read_ms));
    receive();
}

void UpstreamSession::closed_by_upstream(int error) {
    if (at_ == At::waiting) {
        if (error) {
            LOG(log_, error, error, "recv() failed");
        } else {
            LOG(log_, error, 0, "upstream prematurely closed connection");
        }
        return fail(NextUpstream::error);
    }
    if (!error && protocol_.body_closed() == UpstreamProtocol::Body::complete) {
        return body_over({}, true);
    }
    if (error) {
        LOG(log_, error, error, "recv() failed");
    } else {
        LOG(log_, error, 0, "upstream prematurely closed connection");
    }
    break_off();
}

// All of the response has come. The connection is free before the client has taken everything.
void UpstreamSession::body_over(core::Chain&& last, bool clean) {
    protocol_.body_complete();
    finish_try();
    leave_peer(TryEnd::passed);
    if (!clean) {
        LOG(log_, warn, 0,
            "upstream sent more data than specified in \"Content-Length\" header");
    }
    release_connection(clean && protocol_.keeps_connection());
    at_ = At::relaying;
    if (relay_.finish(std::move(last))) on_relay_done();
}

void UpstreamSession::on_relay_done() {
    if (at_ != At::relaying) return;
    if (settings_.store->on && request_.response.status == 200) store_response();
    conclude(Verdict::finish());
}

// The response cannot be completed: the client must see that.
void UpstreamSession::break_off() {
    finish_try();
    leave_peer(TryEnd::passed);
    release_connection(false);
    request_.cut();
    conclude(Verdict::finish());
}

}  // namespace server
