// One probe a server and round: connect, ask, judge the answer.
#include "server/upstream/health.h"

#include <cerrno>
#include <random>

#include "core/arena.h"
#include "core/clock.h"
#include "core/log.h"
#include "core/reactor.h"
#include "core/regex.h"
#include "core/tls.h"
#include "server/http/headers.h"
#include "server/upstream/group.h"
#include "server/upstream/group_metrics.h"
#include "server/upstream/response_parser.h"
#include "server/upstream/tls.h"

namespace server {

namespace {
constexpr size_t answer_bytes_max = 256 * 1024;

bool matches(const core::Regex& pattern, core::Slice text) {
    constexpr int pairs_max = 32;
    uint32_t offsets[2 * pairs_max];
    return pattern.match(text, 0, offsets, pairs_max) >= 0;
}
}  // namespace

// Asks one server once. Holds a reference to its peer.
class HealthProbe final : public core::ListNode, public core::IoHandler {
  public:
    HealthProbe(HealthChecker& checker, Peer& peer)
        : peer(peer),
          checker_(checker),
          timer_([](void* it) { static_cast<HealthProbe*>(it)->fail("timed out"); }, this),
          destruction([](void* it) { delete static_cast<HealthProbe*>(it); }, this) {}

    void start() {
        const HealthRule& rule = checker_.rule();
        core::Address address = peer.address;
        if (rule.port && address.family() != AF_UNIX) address.set_port(rule.port);
        auto fd = core::connect_to(address);
        if (!fd) return fail("connect() failed");
        stream_ = core::Stream(std::move(*fd));
        if (!watch_.start(stream_.fd(), *this)) return fail("cannot be watched");
        timer_.set(rule.connect_ms);
    }

    void on_io(uint8_t) override {
        if (over_) return;
        if (!connected_ && !connected()) return;
        if (tls_waits_ && !handshake()) return;
        if (!request_.empty() && !send()) return;
        receive();
    }

    void close() {
        over_ = true;
        timer_.cancel();
        if (watch_.active()) watch_.stop_closing();
        stream_.close();
    }

    Peer& peer;

  private:
    bool connected() {
        if (core::socket_error(stream_.fd())) {
            fail("connect() failed");
            return false;
        }
        connected_ = true;
        const HealthRule& rule = checker_.rule();
        timer_.set(rule.read_ms);
        if (rule.tls) {
            core::TlsSessionPtr session = rule.tls->open(stream_.fd(), rule.host);
            if (!session) {
                fail("no TLS session");
                return false;
            }
            stream_.set_tls(std::move(session));
            tls_waits_ = true;
        }
        if (rule.tcp && !tls_waits_) {
            pass();
            return false;
        }
        request_.add_copy("GET " + rule.uri + " HTTP/1.0\r\nHost: " + rule.host +
                          "\r\nConnection: close\r\n\r\n");
        return true;
    }

    bool handshake() {
        core::IoResult result = stream_.tls()->handshake();
        if (result.status == core::Io::again) return false;
        if (result.status != core::Io::done) {
            fail("SSL_do_handshake() failed");
            return false;
        }
        tls_waits_ = false;
        if (checker_.rule().tcp) pass();
        return !over_;
    }

    bool send() {
        core::IoResult result = stream_.write(request_);
        if (result.status == core::Io::failed || result.status == core::Io::closed) {
            fail("send() failed");
            return false;
        }
        return request_.empty();
    }

    void receive() {
        char buffer[4096];
        while (!over_) {
            core::IoResult got = stream_.read(buffer, sizeof buffer);
            if (got.status == core::Io::again) return;
            if (got.status != core::Io::done) return judge();
            answer_.append(buffer, size_t(got.bytes));
            if (answer_.size() > answer_bytes_max) return judge();
        }
    }

    void judge() {
        core::Arena arena;
        HeaderList fields(arena);
        ResponseHead head;
        size_t searched = 0;
        size_t end = may_be_response(answer_) ? find_head_end(answer_, searched) : 0;
        core::Slice text(answer_);
        if (end == 0 || parse_response_head(text.substr(0, end), head, fields)) {
            return fail("no valid answer");
        }
        core::Slice body = text.substr(end);
        if (!checker_.rule().match.accepts(head.status, fields, body)) {
            return fail("unexpected answer");
        }
        pass();
    }

    void pass() {
        if (over_) return;
        close();
        checker_.passed(*this);
    }
    void fail(const char* why) {
        if (over_) return;
        close();
        checker_.failed(*this, why);
    }

    HealthChecker& checker_;
    core::Stream stream_;
    core::Watch watch_;
    core::Timer timer_;
    core::Chain request_;
    std::string answer_;
    bool connected_ = false, tls_waits_ = false, over_ = false;

  public:
    core::Deferred destruction;
};

bool HealthMatch::accepts(int status, const HeaderList& given, core::Slice text) const {
    bool named = statuses.empty();
    for (const Statuses& range : statuses) named |= status >= range.from && status <= range.to;
    if (named == other_statuses && !statuses.empty()) return false;
    for (const Field& field : fields) {
        core::Slice value = given.joined(field.name, ", ");
        bool there = value.data() != nullptr;
        bool good = true;
        switch (field.test) {
            case Field::present: good = there; break;
            case Field::absent: good = !there; break;
            case Field::equal: good = there && value == field.value; break;
            case Field::not_equal: good = !there || value != field.value; break;
            case Field::like: good = there && matches(*field.pattern, value); break;
            case Field::unlike: good = !there || !matches(*field.pattern, value); break;
        }
        if (!good) return false;
    }
    return !body || matches(*body, text) != body_unlike;
}

HealthChecker::HealthChecker(UpstreamGroup& group, const HealthRule& rule)
    : group_(group),
      rule_(rule),
      timer_([](void* it) { static_cast<HealthChecker*>(it)->round(); }, this) {}

HealthChecker::~HealthChecker() {
    while (HealthProbe* probe = probes_.pop_front()) {
        PeerLock lock(group_.store);
        group_.store.drop(&probe->peer);
        delete probe;
    }
}

void HealthChecker::start() {
    if (rule_.mandatory) set_mandatory();
    timer_.set(0);
}

void HealthChecker::set_mandatory() {
    PeerTable* table = group_.table();
    PeerLock lock(group_.store);
    for (const PeerList* list : {&table->primary, &table->backup}) {
        for (uint32_t i = 0; i < list->count; ++i) list->items[i]->down |= peer_unhealthy;
    }
    group_.store.drop(table);
}

// The next round begins when this one is over, an interval after it began at the earliest.
void HealthChecker::round() {
    static std::minstd_rand generator{std::random_device{}()};
    int64_t jitter_ms = rule_.jitter_ms ? int64_t(generator()) % rule_.jitter_ms : 0;
    timer_.set(rule_.interval_ms + jitter_ms);
    if (running_ > 0) return;
    std::vector<HealthProbe*> begun;
    PeerTable* table = group_.table();
    {
        PeerLock lock(group_.store);
        for (const PeerList* list : {&table->primary, &table->backup}) {
            for (uint32_t i = 0; i < list->count; ++i) {
                Peer& peer = *list->items[i];
                if (peer.down & peer_down) continue;
                group_.store.hold(peer);
                begun.push_back(new HealthProbe(*this, peer));
            }
        }
        group_.store.drop(table);
    }
    running_ = int(begun.size());
    for (HealthProbe* probe : begun) probes_.push_back(*probe);
    for (HealthProbe* probe : begun) probe->start();
}

void HealthChecker::passed(HealthProbe& probe) {
    Peer& peer = probe.peer;
    {
        PeerLock lock(group_.store);
        peer.failures = 0;
        if (group_.metrics) group_.metrics->checked(peer.name, true, false);
        if ((peer.down & peer_unhealthy) && ++peer.passes >= rule_.passes) {
            peer.down &= uint8_t(~peer_unhealthy);
            peer.passes = peer.fails = 0;
            if (peer.slow_start_ms) peer.start_ms = core::Clock::monotonic_ms();
            LOG(core::process_log(), notice, 0, "peer %.*s of upstream \"%s\" is healthy",
                int(peer.name.size()), peer.name.data(), group_.name.c_str());
        }
    }
    end(probe);
}

void HealthChecker::failed(HealthProbe& probe, const char* why) {
    Peer& peer = probe.peer;
    {
        PeerLock lock(group_.store);
        peer.passes = 0;
        bool turns = !(peer.down & peer_unhealthy) && ++peer.failures >= rule_.fails;
        if (group_.metrics) group_.metrics->checked(peer.name, false, turns);
        if (turns) {
            peer.down |= peer_unhealthy;
            peer.failures = 0;
            LOG(core::process_log(), warn, 0, "peer %.*s of upstream \"%s\" is unhealthy: %s",
                int(peer.name.size()), peer.name.data(), group_.name.c_str(), why);
        }
    }
    end(probe);
}

void HealthChecker::end(HealthProbe& probe) {
    --running_;
    probe.unlink();
    {
        PeerLock lock(group_.store);
        group_.store.drop(&probe.peer);
    }
    core::Reactor::current().at_end(core::Reactor::destroy, probe.destruction);
}

}  // namespace server
