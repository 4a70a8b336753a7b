// HTTP/1 input: reading, heads, bodies, and what follows the end of a request.
#include "server/http/h1.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/clock.h"
#include "core/tls.h"
#include "server/http/core_conf.h"
#include "server/http/proxy_header.h"
#include "server/http/request.h"
#include "server/http/request_timer.h"
#include "server/http/router.h"
#include "server/upstream/states.h"
#include "server/worker.h"

namespace server {

namespace {

// What one read may bring. One buffer serves all connections of the worker: whatever is to be kept
// is copied, a head into its request's arena, a rest into the connection's input.
constexpr size_t scratch_bytes = 64 * 1024;
char scratch[scratch_bytes];

void describe_request(const void* subject, core::LogLine& line) {
    const auto& request = *static_cast<const Request*>(subject);
    char room[128];
    line.append(", client: ");
    line.append(request.connection.peer.ip_into(room, sizeof room));
    line.append(", server: ");
    line.append(request.server->name());
    if (!request.main->head.line.empty()) {
        line.append(", request: \"");
        line.append_escaped(request.main->head.line);
        line.append("\"");
    }
    if (request.parent) {
        line.append(", subrequest: \"");
        line.append_escaped(request.uri);
        line.append("\"");
    }
    describe_upstream(request, line);
    core::Slice host = request.headers.value(HeaderId::host);
    if (!host.empty()) {
        line.append(", host: \"");
        line.append_escaped(host);
        line.append("\"");
    }
    core::Slice referer = request.headers.value(HeaderId::referer);
    if (!referer.empty()) {
        line.append(", referrer: \"");
        line.append_escaped(referer);
        line.append("\"");
    }
}

}  // namespace

void InputBuffer::append(core::Slice bytes) {
    if (end_ + bytes.size() > capacity_) {
        size_t held = end_ - begin_;
        size_t wanted = std::max<size_t>(1024, (held + bytes.size()) * 2);
        auto* room = static_cast<char*>(std::malloc(wanted));
        if (!room) core::out_of_memory(wanted);
        core::count_heap_allocation();
        if (held) std::memcpy(room, data_ + begin_, held);
        std::free(data_);
        data_ = room;
        begin_ = 0;
        end_ = uint32_t(held);
        capacity_ = uint32_t(wanted);
    }
    std::memcpy(data_ + end_, bytes.data(), bytes.size());
    end_ += uint32_t(bytes.size());
}

void InputBuffer::consume(size_t count) {
    begin_ += uint32_t(count);
    if (begin_ == end_) clear();
}

void InputBuffer::clear() {
    std::free(data_);
    data_ = nullptr;
    begin_ = end_ = capacity_ = 0;
}

H1::H1(Worker& by, ListenAddress& on, core::Fd fd, const core::Address& from)
    : Connection(by, on, std::move(fd), from),
      read_timer_(on_read_timeout, this),
      write_timer_(on_write_timeout, this),
      flush_([](void* it) { static_cast<H1*>(it)->flush_output(); }, this),
      go_on_([](void* it) { static_cast<H1*>(it)->go_on(); }, this) {}

H1::H1(Connection& accepted)
    : Connection(accepted),
      read_timer_(on_read_timeout, this),
      write_timer_(on_write_timeout, this),
      flush_([](void* it) { static_cast<H1*>(it)->flush_output(); }, this),
      go_on_([](void* it) { static_cast<H1*>(it)->go_on(); }, this) {}

H1::~H1() {
    count_reading(false);
    if (!request_) return;
    Request::destroy(request_);
    bump(worker.counters.writing, int64_t(-1));
}

// For stub_status: a head that has arrived in part.
void H1::count_reading(bool on) {
    if (reading_ == on) return;
    reading_ = on;
    bump(worker.counters.reading, int64_t(on ? 1 : -1));
}

bool H1::begin() {
    const CoreConf& conf = *listen.default_server->root.core;
    if (watch.active()) {       // taken over
    } else if (auto started = watch.start(stream.fd(), *this); !started) {
        LOG(log, alert, 0, "%s", started.error().what.c_str());
        return false;
    }
    log.action = "waiting for request";
    read_timer_.set(conf.client_header_timeout->count);
    return true;
}

HeadLimits H1::limits() const {
    const CoreConf& conf = *listen.default_server->root.core;
    size_t first = size_t(conf.client_header_buffer_size->count);
    size_t large = size_t(conf.large_client_header_buffers->bytes);
    size_t count = size_t(conf.large_client_header_buffers->count);
    return {std::max(first, large), first + large * count};
}

void H1::on_io(uint8_t ready) {
    // TLS may have to read in order to write, and the other way round.
    if (stream.tls()) [[unlikely]] ready |= core::ready_read | core::ready_write;
    if (ready & core::ready_write && write_blocked_) {
        write_blocked_ = false;
        flush_output();
    }
    if (ready & core::ready_read && state_ != State::closed) {
        readable_ = true;
        if (ready & core::ready_hangup) peer_closed_ = true;
        if (wants_input()) read_input();
        bool waits = state_ == State::serving && !wants_body_ && input_.empty();
        if (peer_closed_ && waits && request_->on_abort) request_->client_aborted();
        // What this input brought about leaves while the connection's memory is at hand.
        if (flush_.linked()) {
            flush_.unlink();
            flush_output();
        }
    }
}

bool H1::wants_input() const {
    switch (state_) {
        case State::idle:
        case State::draining_body:
        case State::lingering: return true;
        case State::serving: return wants_body_;
        case State::closing:
        case State::closed: break;
    }
    return false;
}

void H1::read_input() {
    while (readable_ && wants_input()) {
        core::IoResult got = stream.read(scratch, scratch_bytes);
        if (awaits_handshake_ && stream.tls()->established()) [[unlikely]] return close();
        if (got.status == core::Io::again) {
            readable_ = false;
            return;
        }
        if (got.status != core::Io::done) {
            readable_ = false;
            if (got.status == core::Io::failed) {
                LOG(log, info, got.error, "recv() failed");
            }
            return input_ended(got.status == core::Io::failed);
        }
        if (got.drained && !peer_closed_) readable_ = false;
        if (state_ == State::lingering) continue;
        receive({scratch, size_t(got.bytes)});
    }
}

void H1::receive(core::Slice bytes) {
    if (input_.empty()) {
        bytes.remove_prefix(process(bytes));
        if (!bytes.empty() && state_ != State::closed) input_.append(bytes);
    } else {
        input_.append(bytes);
        input_.consume(process(input_.bytes()));
    }
}

// Works through what has arrived; returns how many bytes were used up.
size_t H1::process(core::Slice bytes) {
    size_t used = 0;
    processing_ = true;
    for (;;) {
        size_t step = 0;
        if (state_ == State::idle && used < bytes.size()) {
            step = take_head(bytes.substr(used));
            if (step == 0) break;
        } else if (request_ && wants_body_ && (body_left_ > 0 || parser_)) {
            if (used == bytes.size()) break;
            step = feed_body(bytes.substr(used));
        } else {
            break;
        }
        used += step;
        while (request_over_ && state_ != State::closed) request_over();
    }
    processing_ = false;
    return used;
}

// What a balancer sends first (listen … proxy_protocol). Without it the connection is of no use.
size_t H1::take_proxy_header(core::Slice bytes) {
    auto header = std::make_unique<ProxyHeader>();
    size_t used = 0;
    switch (ProxyHeader::parse(bytes, *header, used)) {
        case ProxyHeader::Outcome::needs_more: return 0;
        case ProxyHeader::Outcome::complete: proxy = std::move(header); return used;
        case ProxyHeader::Outcome::invalid: break;
    }
    core::LogLine shown;
    shown.append_escaped(bytes.substr(0, std::min<size_t>(bytes.size(), 107)));
    log.action = "reading PROXY protocol";
    LOG(log, error, 0, "broken header: \"%.*s\"", int(shown.size()), shown.text().data());
    close();
    return 0;
}

size_t H1::take_head(core::Slice bytes) {
    if (listen.proxy_protocol && !proxy) [[unlikely]] return take_proxy_header(bytes);
    switch (scan_.scan(bytes, limits(), usual_)) {
        case HeadScan::Result::incomplete: {
            count_reading(true);
            if (between_requests_) {
                // From the first byte on the head has client_header_timeout to arrive.
                between_requests_ = false;
                log.action = "reading client request headers";
                read_timer_.set(listen.default_server->root.core->client_header_timeout->count);
            }
            return 0;
        }
        case HeadScan::Result::bad: {
            refuse_head(bytes, scan_.status(), scan_.why());
            return bytes.size();
        }
        case HeadScan::Result::complete: break;
    }
    size_t size = scan_.end();
    rest_ = bytes.substr(size);
    start_request(bytes.substr(0, size));
    return size;
}

Request* H1::new_request(core::Slice bytes) {
    Request* request = Request::create(*this, *this, *listen.default_server);
    core::Slice head = request->arena.copy(bytes);
    request->head.raw = head;
    request->start_ms = core::Clock::wall_ms();
    note_request_start(*request);
    request->log = log;
    request->log.describe = describe_request;
    request->log.subject = request;
    request->log.action = nullptr;
    request->steps = request->server->entry_steps.data();
    request_ = request;
    count_reading(false);
    bump(worker.counters.writing);
    parser_ = nullptr;
    body_left_ = 0;
    wants_body_ = false;
    state_ = State::serving;
    between_requests_ = false;
    ++requests;
    auto& counter = worker.counters.requests;
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return request;
}

void H1::start_request(core::Slice bytes) {
    Request* request = new_request(bytes);
    HeadError error = parse_head(*request, request->head.raw, scan_, &parser_, &usual_);
    request->head.raw.remove_prefix(scan_.start());
    scan_ = {};
    if (error.status) {
        LOG(request->log, info, 0, "%s while reading client request headers", error.why);
        must_linger_ = true;
        request->keep_alive = false;
        request->resume(Verdict::reject(error.status));
        return;
    }
    body_left_ = parser_ ? 0 : std::max<int64_t>(0, request->body.content_length);
    find_server(*request);
    request->keep_alive = decide_keep_alive(*request);
    if (listen.ssl && !tls) [[unlikely]] return refuse_clear_text(*request);
    request->start();
}

// HTTP in the clear where TLS is spoken.
void H1::refuse_clear_text(Request& request) {
    LOG(request.log, info, 0, "client sent plain HTTP request to HTTPS port");
    request.keep_alive = false;
    request.resume(Verdict::reject(497));
}

void H1::refuse_head(core::Slice bytes, int status, const char* why) {
    Request* request = new_request(bytes.substr(0, std::min<size_t>(bytes.size(), 1024)));
    core::Slice text = request->head.raw;
    text.remove_prefix(std::min(scan_.start(), text.size()));
    request->head.line = text.substr(0, text.find_first_of("\r\n"));
    request->head.version = 11;
    scan_ = {};
    LOG(request->log, info, 0, "%s while reading client request line", why);
    must_linger_ = true;
    request->keep_alive = false;
    request->resume(Verdict::reject(status));
}

size_t H1::feed_body(core::Slice bytes) {
    Request& request = *request_;
    request.body.expects_continue = false;
    if (parser_) {
        ChunkResult result = decode_chunks(request, parser_, bytes);
        if (result.status) {
            LOG(request.log, info, 0, "client sent invalid chunked body");
            body_failed(result.status);
            return bytes.size();
        }
        if (result.complete) {
            parser_ = nullptr;
            wants_body_ = false;
            rest_ = bytes.substr(result.used);
            request.body.receive(request, {}, true);
            if (state_ == State::draining_body) request_over_ = true;
        }
        return result.used;
    }
    size_t part = size_t(std::min<int64_t>(body_left_, int64_t(bytes.size())));
    body_left_ -= int64_t(part);
    if (body_left_ == 0) wants_body_ = false;
    rest_ = bytes.substr(part);
    request.body.receive(request, bytes.substr(0, part), body_left_ == 0);
    if (body_left_ == 0 && state_ == State::draining_body) request_over_ = true;
    return part;
}

// The body cannot be had: its reader is told, the connection will end.
void H1::body_failed(int status) {
    wants_body_ = false;
    parser_ = nullptr;
    body_left_ = 0;
    request_->keep_alive = false;
    must_linger_ = true;
    if (state_ == State::draining_body) {
        cut_ = true;
        request_over_ = true;
        return;
    }
    request_->body.fail(*request_, status);
}

void H1::want_body(Request& request, bool wanted) {
    if (request_ != &request || state_ != State::serving) return;
    bool more_to_come = parser_ || body_left_ > 0;
    wants_body_ = wanted && more_to_come;
    if (!wants_body_) return;
    if (!input_.empty() && !processing_) {
        input_.consume(process(input_.bytes()));
        if (!wants_body_) return;
    }
    if (request.body.expects_continue) {
        request.body.expects_continue = false;
        send_interim(request, 100);
    }
    read_timer_.set(request.core().client_body_timeout->count);
    // While process() runs the rest of the input comes by itself.
    if (readable_ && !processing_) core::Reactor::current().at_end(core::Reactor::work, go_on_);
}

void H1::input_ended(bool failed) {
    peer_closed_ = true;
    if (!request_) return close();
    if (state_ == State::lingering || state_ == State::draining_body) return close();
    if (wants_body_) {
        LOG(request_->log, info, 0, "client prematurely closed connection");
        body_failed(failed ? 499 : 400);
        if (request_ && !request_->done) request_->client_aborted();
        return;
    }
    if (request_->on_abort || failed) request_->client_aborted();
}

void H1::on_read_timeout(void* self) {
    H1& it = *static_cast<H1*>(self);
    switch (it.state_) {
        case State::serving:
            if (!it.wants_body_) return;
            LOG(it.request_->log, info, ETIMEDOUT, "client timed out");
            return it.body_failed(408);
        case State::idle:
            if (!it.input_.empty()) LOG(it.log, info, ETIMEDOUT, "client timed out");
            return it.close(!it.input_.empty() &&
                            it.listen.default_server->root.core->reset_timedout_connection);
        case State::draining_body:
        case State::lingering: return it.close();
        case State::closing:
        case State::closed: return;
    }
}

void H1::request_done(Request& request, bool cut) {
    if (request_ != &request) return;
    cut_ = cut_ || cut;
    request_over_ = true;
    if (!processing_) core::Reactor::current().at_end(core::Reactor::work, go_on_);
}

// A request has ended: reads what is left of its body, or goes on to the next, or closes.
void H1::request_over() {
    request_over_ = false;
    Request& request = *request_;
    bool body_left = parser_ || body_left_ > 0;
    if (body_left && !cut_ && request.keep_alive && !request.body.expects_continue) {
        const CoreConf& conf = request.core();
        request.body.discard(request);
        state_ = State::draining_body;
        wants_body_ = true;
        read_timer_.set(conf.lingering_timeout->count);
        return;
    }
    bool again = request.keep_alive && !cut_ && !body_left;
    int64_t timeout_ms = request.core().keepalive_timeout->count;
    request_ = nullptr;
    parser_ = nullptr;
    body_left_ = 0;
    wants_body_ = false;
    holds_request_memory_ = false;
    Request::destroy(&request);
    bump(worker.counters.writing, int64_t(-1));
    if (again) return go_idle(timeout_ms);
    state_ = State::closing;
    if (pending_ == 0) return finish_closing();
    schedule_flush();
}

void H1::go_idle(int64_t timeout_ms) {
    state_ = State::idle;
    between_requests_ = true;
    log.action = "keepalive";
    if (worker.leaving()) {
        const CoreConf& conf = *listen.default_server->root.core;
        timeout_ms = std::min(timeout_ms, conf.keepalive_min_timeout->count);
    }
    read_timer_.set(timeout_ms);
}

// After a request that ended, or began to want its body, outside process().
void H1::go_on() {
    if (state_ == State::closed) return;
    while (request_over_ && state_ != State::closed) request_over();
    if (state_ == State::closed) return;
    if (!input_.empty() && wants_input()) input_.consume(process(input_.bytes()));
    if (readable_ && wants_input()) read_input();
}

void H1::drain() {
    if (!idle()) return;
    const CoreConf& conf = *listen.default_server->root.core;
    int64_t grace = conf.keepalive_min_timeout->count;
    if (requests == 0) grace = std::max<int64_t>(grace, 1000);
    read_timer_.cancel();
    read_timer_.set(grace);
}

// An answer to early data went out before the client's part of the handshake was read.
bool H1::unfinished_handshake() const {
    const core::TlsSession* session = stream.tls();
    return session && session->took_early_data() && !session->established();
}

void H1::finish_closing() {
    const CoreConf& conf = *listen.default_server->root.core;
    bool unread = readable_ || !input_.empty() || must_linger_;
    if (cut_ || peer_closed_) return close(false);
    if (unfinished_handshake()) return linger();
    if (conf.lingering_close == LingeringClose::off) return close(false);
    if (unread || conf.lingering_close == LingeringClose::always) return linger();
    close();
}

// Closing while the client still sends would make the kernel send RST, and the client might never
// see our answer (RFC 9112 9.6). So only our side is closed, and the rest is read and dropped.
void H1::linger() {
    const CoreConf& conf = *listen.default_server->root.core;
    state_ = State::lingering;
    input_.clear();
    awaits_handshake_ = unfinished_handshake();
    if (!awaits_handshake_) stream.shutdown_write();
    read_timer_.cancel();
    read_timer_.set(std::min(conf.lingering_timeout->count, conf.lingering_time->count));
    if (readable_) core::Reactor::current().at_end(core::Reactor::work, go_on_);
}

void H1::close(bool reset) {
    if (state_ == State::closed) return;
    state_ = State::closed;
    read_timer_.cancel();
    write_timer_.cancel();
    flush_.unlink();
    go_on_.unlink();
    if (request_ && !request_->done) request_->client_aborted();
    watch.stop_closing();
    if (reset) {
        stream.reset();
    } else {
        stream.close();
    }
    core::Reactor::current().at_end(core::Reactor::destroy, destruction_);
}

core::Stream H1::detach(std::string& leftover) {
    leftover.assign(processing_ ? rest_ : input_.bytes());
    if (!processing_) input_.clear();
    wants_body_ = false;
    watch.stop();
    read_timer_.cancel();
    write_timer_.cancel();
    if (core::TlsSession* session = stream.tls()) {
        session->say_rest();      // the use that TlsAccept handed it over for ends here
        detached_tls = session->share();
    }
    return std::move(stream);
}

}  // namespace server
