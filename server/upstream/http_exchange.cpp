// The steps of an exchange with an upstream server.
#include "server/upstream/http_exchange.h"

#include <cerrno>

#include "core/clock.h"
#include "core/resolver.h"

namespace server {

namespace {

constexpr size_t scratch_bytes = 64 * 1024;
char scratch[scratch_bytes];

}  // namespace

UpstreamExchange::UpstreamExchange(Client& client, const core::LogContext& log,
                                   const UpstreamOptions& options)
    : client_(client),
      log_(log),
      options_(options),
      timer_(on_timeout, this),
      later_([](void* it) { static_cast<UpstreamExchange*>(it)->connect(); }, this),
      parser_(client, options.head_request, options.head_bytes_max) {}

UpstreamExchange::~UpstreamExchange() { stop(); }

void UpstreamExchange::start(const UpstreamTarget& target, core::Resolver& resolver,
                             core::Chain&& request) {
    started_ms_ = core::Clock::monotonic_ms();
    request_ = std::move(request);
    if (target.is_unix) {
        address_.local.sun_family = AF_UNIX;
        target.host.copy(address_.local.sun_path, sizeof address_.local.sun_path - 1);
        address_.size = sizeof address_.local;
        candidates_ = {address_};
        return core::Reactor::current().at_end(core::Reactor::work, later_);
    }
    at_ = At::resolving;
    int port = target.port;
    query_ = resolver.resolve(target.host, [this, port](const core::Resolution& found) {
        if (!found.ok()) {
            LOG(log_, error, 0, "%s", found.error_text().c_str());
            return fail(502);
        }
        resolved(found.addresses, port);
    });
}

void UpstreamExchange::resolved(const std::vector<core::Address>& addresses, int port) {
    candidates_ = addresses;
    for (core::Address& address : candidates_) address.set_port(port);
    connect();
}

// Tries the addresses in order until one takes the connection.
void UpstreamExchange::connect() {
    if (candidates_.empty()) return fail(502);
    address_ = candidates_.front();
    candidates_.erase(candidates_.begin());
    at_ = At::connecting;
    log_.action = "connecting to upstream";
    auto fd = core::connect_to(address_);
    if (!fd) {
        LOG(log_, error, 0, "%s", fd.error().what.c_str());
        return candidates_.empty() ? fail(502) : connect();
    }
    stream_ = core::Stream(std::move(*fd));
    if (auto watching = watch_.start(stream_.fd(), *this); !watching) {
        LOG(log_, alert, 0, "%s", watching.error().what.c_str());
        return fail(500);
    }
    timer_.set(options_.connect_timeout_ms);
}

void UpstreamExchange::on_io(uint8_t ready) {
    if (at_ == At::connecting && (ready & core::ready_write)) connected();
    if (at_ != At::exchanging) return;
    if (ready & core::ready_read) readable_ = true;
    if ((ready & core::ready_write) && !request_.empty()) send();
    if (at_ == At::exchanging && readable_) receive();
}

void UpstreamExchange::connected() {
    if (int error = core::socket_error(stream_.fd())) {
        LOG(log_, error, error, "connect() failed");
        watch_.stop();
        stream_.close();
        return candidates_.empty() ? fail(502) : connect();
    }
    at_ = At::exchanging;
    log_.action = "sending request to upstream";
    send();
}

void UpstreamExchange::send() {
    core::IoResult result = stream_.write(request_);
    if (result.status == core::Io::failed || result.status == core::Io::closed) {
        // The server may have answered before it stopped listening: that answer counts.
        request_.clear();
        readable_ = true;
        return receive();
    }
    if (request_.empty()) log_.action = "reading response header from upstream";
    timer_.cancel();
    timer_.set(request_.empty() ? options_.read_timeout_ms : options_.send_timeout_ms);
}

void UpstreamExchange::receive() {
    if (receiving_) return;
    receiving_ = true;
    while (at_ == At::exchanging && readable_ && !paused_) {
        core::IoResult got = stream_.read(scratch, scratch_bytes);
        if (got.status == core::Io::again) {
            readable_ = false;
        } else if (got.status != core::Io::done) {
            closed_by_upstream(got.status == core::Io::failed ? got.error : 0);
        } else {
            received({scratch, size_t(got.bytes)});
        }
    }
    receiving_ = false;
}

void UpstreamExchange::received(core::Slice bytes) {
    bytes_received_ += int64_t(bytes.size());
    bool had_head = parser_.state() != ResponseParser::State::head;
    switch (parser_.feed(bytes)) {
        case ResponseParser::State::complete: return end(true);
        case ResponseParser::State::bad:
            if (at_ == At::over) return;
            LOG(log_, error, 0, "upstream sent %s",
                parser_.head_too_big() ? "too big header" : "invalid response");
            return had_head ? end(false) : fail(502);
        case ResponseParser::State::head:
        case ResponseParser::State::body: break;
    }
    if (at_ != At::exchanging) return;
    if (parser_.state() == ResponseParser::State::body) log_.action = "reading upstream";
    timer_.set(options_.read_timeout_ms);
    paused_ = !client_.wants_more();
    if (paused_) timer_.cancel();
}

void UpstreamExchange::resume() {
    if (!paused_ || at_ != At::exchanging) return;
    paused_ = false;
    timer_.set(options_.read_timeout_ms);
    receive();
}

void UpstreamExchange::closed_by_upstream(int error) {
    bool had_head = parser_.state() != ResponseParser::State::head;
    if (error == 0 && parser_.finish() == ResponseParser::State::complete) return end(true);
    if (!had_head) {
        LOG(log_, error, error,
            error ? "recv() failed" : "upstream prematurely closed connection");
        return fail(502);
    }
    LOG(log_, error, error, "upstream prematurely closed connection");
    end(false);
}

void UpstreamExchange::end(bool complete) {
    stop();
    client_.on_upstream_end(complete);
}

void UpstreamExchange::fail(int status) {
    stop();
    client_.on_upstream_failure(status);
}

void UpstreamExchange::stop() {
    at_ = At::over;
    timer_.cancel();
    later_.unlink();
    query_.reset();
    if (watch_.active()) watch_.stop_closing();
    stream_.close();
}

void UpstreamExchange::on_timeout(void* self) {
    UpstreamExchange& it = *static_cast<UpstreamExchange*>(self);
    LOG(it.log_, error, ETIMEDOUT, "upstream timed out");
    if (it.parser_.state() == ResponseParser::State::head) return it.fail(504);
    it.end(false);
}

}  // namespace server
