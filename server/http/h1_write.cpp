// HTTP/1 output: the response head, chunked framing, and getting bytes out in few writes.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/h1.h"
#include "server/http/request.h"
#include "server/http/special_response.h"
#include "server/http/user_agent.h"
#include "server/worker.h"

namespace server {

namespace {

// Memory up to this size is copied next to what precedes it rather than gathered: one piece to
// write, and the request's memory is free at once.
constexpr int64_t copied_bytes_max = 4096;

// More output than this is pushed out before the end of the turn.
constexpr int64_t flush_early_bytes = 64 * 1024;

// Appends text to a run that is known to be large enough.
class HeadWriter {
  public:
    explicit HeadWriter(char* to) : start_(to), at_(to) {}
    void put(core::Slice text) {
        std::memcpy(at_, text.data(), text.size());
        at_ += text.size();
    }
    template <size_t n>
    void literal(const char (&text)[n]) {
        std::memcpy(at_, text, n - 1);
        at_ += n - 1;
    }
    void field(core::Slice name, core::Slice value) {
        put(name);
        literal(": ");
        put(value);
        literal("\r\n");
    }
    void number(int64_t value) {
        char digits[24];
        put(core::format_number(value, digits));
    }
    size_t size() const { return size_t(at_ - start_); }

  private:
    char* start_;
    char* at_;
};

bool allows_body(const Request& request) {
    int status = request.response.status;
    return request.method != Method::head && status >= 200 && status != 204 && status != 304;
}

// An upper bound of the head's size.
size_t head_size(const Request& request) {
    const Response& response = request.response;
    size_t size = 512 + response.status_line.size() + response.content_type.size() +
                  response.charset.size() + response.etag.size() + response.location.size() +
                  request.head.host.size() + request.server->name().size();
    for (const Header& field : response.headers) size += field.name.size() + field.value.size() + 4;
    return size;
}

void put_status_line(HeadWriter& out, const Response& response) {
    if (response.status_line.empty() && response.status == 200) {
        out.literal("HTTP/1.1 200 OK\r\n");
        return;
    }
    out.literal("HTTP/1.1 ");
    core::Slice line = response.status_line;
    if (line.empty()) line = status_text(response.status);
    if (line.empty()) {
        out.number(response.status);
        out.literal(" ");
    } else {
        out.put(line);
    }
    out.literal("\r\n");
}

void put_content(HeadWriter& out, const Request& request) {
    const Response& response = request.response;
    if (!response.content_type.empty() && response.status != 204) {
        out.literal("Content-Type: ");
        out.put(response.content_type);
        if (!response.charset.empty()) {
            out.literal("; charset=");
            out.put(response.charset);
        }
        out.literal("\r\n");
    }
    if (response.content_length >= 0 && response.status != 204) {
        out.literal("Content-Length: ");
        out.number(response.content_length);
        out.literal("\r\n");
    }
    if (response.last_modified >= 0) {
        char date[32];
        core::format_http_date(response.last_modified, date);
        out.field("Last-Modified", {date, 29});
    }
}

// A path becomes a URL with the host the client used (absolute_redirect).
void put_location(HeadWriter& out, Request& request) {
    core::Slice location = request.response.location;
    if (location.empty()) return;
    const CoreConf& conf = request.core();
    if (location[0] != '/' || !conf.absolute_redirect) return out.field("Location", location);
    core::Slice host = request.head.host;
    if (conf.server_name_in_redirect || host.empty()) host = request.server->name();
    out.literal("Location: ");
    out.put(request.connection.tls ? "https://" : "http://");
    char room[128];
    if (host.empty()) host = request.connection.local().ip_into(room, sizeof room);
    out.put(host);
    int port = request.connection.local().port();
    if (conf.port_in_redirect && port && port != (request.connection.tls ? 443 : 80)) {
        out.literal(":");
        out.number(port);
    }
    out.put(location);
    out.literal("\r\n");
}

void put_connection(HeadWriter& out, const Request& request) {
    if (request.response.status == 101) {
        out.literal("Connection: upgrade\r\n");
    } else if (request.keep_alive) {
        out.literal("Connection: keep-alive\r\n");
        int64_t shown = request.core().keepalive_header_s;
        if (shown >= 0) {
            out.literal("Keep-Alive: timeout=");
            out.number(shown);
            out.literal("\r\n");
        }
    } else {
        out.literal("Connection: close\r\n");
    }
}

void put_head(HeadWriter& out, Request& request) {
    const Response& response = request.response;
    put_status_line(out, response);
    if (!response.server_given) out.field("Server", server_token(request));
    if (!response.date_given) {
        out.literal("Date: ");
        out.put(core::Clock::http_date());
        out.literal("\r\n");
    }
    put_content(out, request);
    put_location(out, request);
    if (response.chunked) out.literal("Transfer-Encoding: chunked\r\n");
    put_connection(out, request);
    if (!response.etag.empty()) out.field("ETag", response.etag);
    for (const Header& field : response.headers) {
        if (!field.removed) out.field(field.name, field.value);
    }
    out.literal("\r\n");
}

}  // namespace

bool H1::decide_keep_alive(Request& request) const {
    core::Slice wish = request.headers.value(HeaderId::connection);
    bool keep = request.head.version >= 11;
    if (!wish.empty()) {
        if (core::ifind(wish, "close") != core::Slice::npos) {
            keep = false;
        } else if (core::ifind(wish, "keep-alive") != core::Slice::npos) {
            keep = true;
        }
    }
    const CoreConf& conf = *request.server->root.core;
    if (conf.keepalive_timeout->count == 0 || requests >= uint64_t(*conf.keepalive_requests)) {
        return false;
    }
    return keep && core::Clock::wall_ms() - opened_ms <= conf.keepalive_time->count;
}

void H1::send_head(Request& request) {
    Response& response = request.response;
    if (!allows_body(request)) request.header_only = true;
    bool unknown_length = response.content_length < 0 && !request.header_only;
    response.chunked = unknown_length && request.head.version >= 11 &&
                       request.core().chunked_transfer_encoding;
    if (unknown_length && !response.chunked) request.keep_alive = false;
    const CoreConf& conf = request.core();
    if (conf.keepalive_timeout->count == 0 || worker.leaving()) request.keep_alive = false;
    if (request.body.expects_continue) request.keep_alive = false;
    if (conf.keepalive_disable.is_set || request.method == Method::post) [[unlikely]] {
        if (request.keep_alive && keepalive_disabled(request)) request.keep_alive = false;
    }

    size_t room = head_size(request);
    char* to = room <= core::Chunk::capacity ? output_.reserve(room) : request.arena.bytes(room);
    HeadWriter out(to);
    put_head(out, request);
    if (room <= core::Chunk::capacity) {
        output_.commit(out.size());
    } else {
        output_.add_from_request({to, out.size()});
        holds_request_memory_ = true;
    }
    request.bytes_sent += int64_t(out.size());
    pending_ += int64_t(out.size());
    if (pending_ >= conf.postpone_output->count) schedule_flush();
}

void H1::send_interim(Request& request, int status) {
    if (request.head.version < 11 || request.header_sent()) return;
    core::Slice text = status_text(status);
    output_.add_copy("HTTP/1.1 ");
    output_.add_copy(text);
    output_.add_copy("\r\n");
    pending_ += int64_t(text.size()) + 13;
    for (const Header& field : request.response.headers) {
        if (field.removed || status == 100) continue;
        for (core::Slice part : {field.name, core::Slice(": "), field.value, core::Slice("\r\n")}) {
            output_.add_copy(part);
            pending_ += int64_t(part.size());
        }
    }
    output_.add_copy("\r\n");
    schedule_flush();
}

void H1::send_body(Request& request, core::Chain&& body) {
    core::Chain chain = std::move(body);
    bool last = chain.ends();
    bool in_memory = true, flush_now = false;
    int64_t bytes = 0;
    for (core::Buffer* at = chain.head(); at; at = at->next) {
        flush_now |= (at->flags & core::Buffer::flush) != 0;
        in_memory &= !at->is_file();
        bytes += at->size();
    }
    int64_t before = pending_;
    if (in_memory && bytes <= copied_bytes_max) {
        put_small_body(request, chain, bytes, last);
    } else {
        put_body(request, std::move(chain), bytes, last);
    }
    body_queued(request, pending_ - before, last);
    if (flush_now && pending_ > 0 && !write_blocked_) flush_output();
}

// Counts a piece of the body and sees to its leaving.
void H1::body_queued(Request& request, int64_t bytes, bool last) {
    request.bytes_sent += bytes;
    request.body_bytes_sent += bytes;
    if (pending_ > flush_early_bytes && !write_blocked_) return flush_output();
    if (pending_ > 0 && (last || pending_ >= request.core().postpone_output->count)) {
        schedule_flush();
    }
}

namespace {

// "1a2b" and the line end of a chunk's size line; returns its end.
char* put_chunk_size(char* to, int64_t bytes) {
    static constexpr char digits[] = "0123456789abcdef";
    int shift = (63 - std::countl_zero(uint64_t(bytes))) / 4 * 4;
    for (; shift >= 0; shift -= 4) *to++ = digits[(bytes >> shift) & 15];
    *to++ = '\r';
    *to++ = '\n';
    return to;
}

template <size_t n>
char* put_literal(char* to, const char (&text)[n]) {
    std::memcpy(to, text, n - 1);
    return to + n - 1;
}

}  // namespace

// A body, or a piece of one, that is copied behind what is there already, framing and all.
void H1::put_small_body(Request& request, const core::Chain& body, int64_t bytes, bool last) {
    bool chunked = request.response.chunked;
    char* start = output_.reserve(size_t(bytes) + 32);
    char* to = start;
    if (chunked && bytes > 0) to = put_chunk_size(to, bytes);
    for (core::Buffer* at = body.head(); at; at = at->next) {
        if (at->begin != at->end) std::memcpy(to, at->begin, size_t(at->end - at->begin));
        to += at->end - at->begin;
    }
    if (chunked && bytes > 0) {
        *to++ = '\r';
        *to++ = '\n';
    }
    output_.commit(size_t(to - start));
    pending_ += to - start;
    if (chunked && last) put_chunk_end(request);
}

void H1::send_text(Request& request, core::Slice text, bool last) {
    bool chunked = request.response.chunked;
    char* start = output_.reserve(text.size() + 40);
    char* to = start;
    if (!text.empty()) {
        if (chunked) to = put_chunk_size(to, int64_t(text.size()));
        std::memcpy(to, text.data(), text.size());
        to += text.size();
        if (chunked) to = put_literal(to, "\r\n");
    }
    bool trailers = request.response.trailers.size() != 0;
    if (chunked && last && !trailers) to = put_literal(to, "0\r\n\r\n");
    output_.commit(size_t(to - start));
    int64_t before = pending_;
    pending_ += to - start;
    if (chunked && last && trailers) put_chunk_end(request);
    body_queued(request, pending_ - before, last);
}

void H1::put_body(Request& request, core::Chain&& body, int64_t bytes, bool last) {
    if (!request.response.chunked) return add_body(std::move(body));
    char* start = output_.reserve(24);
    char* to = put_chunk_size(start, bytes);
    output_.commit(size_t(to - start));
    pending_ += to - start;
    add_body(std::move(body));
    output_.add_copy("\r\n");
    pending_ += 2;
    if (last) put_chunk_end(request);
}

void H1::add_body(core::Chain&& body) {
    while (core::Buffer* buffer = body.pop()) {
        int64_t size = buffer->size();
        pending_ += size;
        if (size == 0) {
            core::Chain::release(buffer);
        } else if (!buffer->is_file() && size <= copied_bytes_max) {
            output_.add_copy(buffer->text());
            core::Chain::release(buffer);
        } else {
            bool borrowed = buffer->flags & core::Buffer::in_request;
            holds_request_memory_ |= borrowed || buffer->is_file();
            core::Chain one;
            one.push_front(buffer);
            output_.append(std::move(one));
        }
    }
}

void H1::put_chunk_end(Request& request) {
    const HeaderList& trailers = request.response.trailers;
    if (trailers.size() == 0) {
        output_.add_copy("0\r\n\r\n");
        pending_ += 5;
        return;
    }
    output_.add_copy("0\r\n");
    pending_ += 3;
    for (const Header& field : trailers) {
        if (field.removed) continue;
        output_.add_copy(field.name);
        output_.add_copy(": ");
        output_.add_copy(field.value);
        output_.add_copy("\r\n");
        pending_ += int64_t(field.name.size() + field.value.size()) + 4;
    }
    output_.add_copy("\r\n");
    pending_ += 2;
}

void H1::flush(Request&) {
    if (!write_blocked_ && pending_ > 0) flush_output();
}

bool H1::settle(Request& request) {
    if (request.parent || pending_ == 0) return true;
    if (!holds_request_memory_ && pending_ < flush_early_bytes && !write_blocked_) return true;
    if (!write_blocked_ && !rate_delayed_) {
        settling_ = true;
        flush_output();
        settling_ = false;
        if (pending_ == 0 || state_ == State::closed) return true;
    }
    waiting_drain_ = true;
    return false;
}

void H1::schedule_flush() {
    if (write_blocked_ || rate_delayed_) return;
    core::Reactor::current().at_end(core::Reactor::flush, flush_);
}

// Bytes that limit_rate lets go now.
int64_t H1::rate_allows() {
    if (!request_ || request_->limit_rate <= 0) return INT64_MAX;
    int64_t elapsed_ms = core::Clock::wall_ms() - request_->start_ms;
    int64_t sent = request_->bytes_sent - pending_;
    int64_t allowed = request_->limit_rate * (elapsed_ms / 1000 + 1) -
                      (sent - request_->limit_rate_after);
    return allowed;
}

// sendfile_max_chunk: what one connection may send before others have their turn.
int64_t H1::chunk_max() const {
    const CoreConf& conf = request_ ? request_->core() : *listen.default_server->root.core;
    int64_t most = conf.sendfile_max_chunk->count;
    return most > 0 ? most : INT64_MAX;
}

void H1::flush_output() {
    if (state_ == State::closed || pending_ == 0) return;
    int64_t allowed = rate_allows();
    if (allowed <= 0) {
        rate_delayed_ = true;
        write_timer_.set(-allowed * 1000 / request_->limit_rate + 1);
        return;
    }
    if (pending_ > flush_early_bytes) allowed = std::min(allowed, chunk_max());
    core::IoResult result = stream.write(output_, allowed);
    pending_ -= result.bytes;
    if (result.status == core::Io::closed || result.status == core::Io::failed) {
        LOG(log, info, result.error, "send() failed");
        return output_gone();
    }
    if (pending_ == 0) {
        output_.clear();
        holds_request_memory_ = false;
        write_timer_.cancel();
        if (state_ == State::closing) return finish_closing();
        waiting_drain_ = false;
        if (request_ && !request_->done && !settling_) request_->drained();
        return;
    }
    if (result.status == core::Io::again) {
        write_blocked_ = true;
        int64_t timeout = request_ ? request_->core().send_timeout->count
                                   : listen.default_server->root.core->send_timeout->count;
        write_timer_.set(timeout);
        return;
    }
    schedule_flush();
}

// The client is gone: nothing more can be sent.
void H1::output_gone() {
    peer_closed_ = true;
    output_.clear();
    pending_ = 0;
    cut_ = true;
    if (request_ && !request_->done) {
        request_->client_aborted();
        return;
    }
    if (!request_) close();
}

void H1::on_write_timeout(void* self) {
    H1& it = *static_cast<H1*>(self);
    if (it.rate_delayed_) {
        it.rate_delayed_ = false;
        return it.flush_output();
    }
    if (it.pending_ == 0) return;
    LOG(it.log, info, ETIMEDOUT, "client timed out");
    if (!it.request_ || it.request_->done) {
        return it.close(it.listen.default_server->root.core->reset_timedout_connection);
    }
    it.output_gone();
}

}  // namespace server
