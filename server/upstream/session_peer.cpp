// Choosing a server for each try: by the group's method, by a script, or waiting in the queue.
#include <algorithm>

#include "core/clock.h"
#include "core/resolver.h"
#include "server/http/connection.h"
#include "server/upstream/session.h"
#include "server/upstream/sticky.h"
#include "server/upstream/tls_scripts.h"
#include "server/worker.h"

namespace server {

namespace {

constexpr uint32_t ip_hash_start = 89;

// The part of a client's address that ip_hash looks at: a /24 of IPv4, all of IPv6.
core::Slice address_key(Request& request) {
    core::Address peer = request.connection.peer;
    if (peer.family() == AF_INET) {
        return request.arena.copy({reinterpret_cast<const char*>(&peer.v4.sin_addr), 3});
    }
    if (peer.family() == AF_INET6) {
        return request.arena.copy({reinterpret_cast<const char*>(&peer.v6.sin6_addr), 16});
    }
    return request.arena.copy(core::Slice("\0\0\0", 3));
}

}  // namespace

Verdict UpstreamSession::start(UpstreamGroup& group) {
    group_ = &group;
    store_ = &group.store;
    record_.group = group.name;
    choice_.table = group.table();
    choice_.method = group.method;
    choice_.counts_inflight = group.counts_inflight;
    choice_.ring = &group.ring;
    switch (group.method) {
        case BalanceMethod::ip_hash:
            choice_.key = address_key(request_);
            choice_.hash = ip_hash_start;
            break;
        case BalanceMethod::hash:
        case BalanceMethod::consistent_hash:
            choice_.key = group.hash_key.evaluate(request_);
            break;
        default: break;
    }
    if (group.sticky) choice_.wanted = group.sticky->find(request_);
    return begin();
}

Verdict UpstreamSession::start(const UpstreamHost& host) {
    arena_store_ = PeerStore(request_.arena);
    store_ = &arena_store_;
    record_.group = host.host;
    core::Address address;
    bool literal = host.is_unix ? address.set_local_path(host.host)
                                : core::Address::parse_ip(host.host, address);
    if (literal) {
        if (!host.is_unix) address.set_port(host.port);
        PeerSpec spec;
        spec.address = address;
        choice_.table = arena_store_.make({spec}, nullptr, 0);
        return begin();
    }
    auto* own = static_cast<core::Resolver*>(request_.core().resolver.get());
    core::Resolver& resolver = own ? *own : request_.connection.worker.resolver();
    int port = host.port;
    at_ = At::resolving;
    watch_client();
    query_ = resolver.resolve(
        host.host,
        [this, port](const core::Resolution& found) {
            if (found.ok()) return resolved(found.addresses, port);
            LOG(log_, error, 0, "%s", found.error_text().c_str());
            conclude(Verdict::reject(502));
        },
        core::ResolveKind::addresses, request_.core().resolver_timeout->count);
    return Verdict::suspend();
}

void UpstreamSession::resolved(const std::vector<core::Address>& addresses, int port) {
    std::vector<PeerSpec> specs;
    for (const core::Address& address : addresses) {
        PeerSpec spec;
        spec.address = address;
        spec.address.set_port(port);
        specs.push_back(std::move(spec));
    }
    choice_.table = arena_store_.make(specs, nullptr, 0);
    begin_choice();
}

Verdict UpstreamSession::begin() {
    starting_ = true;
    watch_client();
    begin_choice();
    starting_ = false;
    return early_;
}

void UpstreamSession::watch_client() {
    record_.active = true;
    if (settings_.ignore_client_abort || settings_.store->on || request_.parent ||
        request_.on_abort) {
        return;
    }
    request_.on_abort = [](Request&, void* self) {
        static_cast<UpstreamSession*>(self)->client_left();
    };
    request_.on_abort_argument = this;
}

void UpstreamSession::begin_choice() {
    PeerTable& table = *choice_.table;
    choice_.list = &table.primary;
    choice_.tries = table.tries();
    uint32_t words = Choice::words(table);
    choice_.tried = words <= 1 ? &choice_.tried_few : request_.arena.make_array<uint64_t>(words);
    std::fill_n(choice_.tried, std::max(words, 1u), uint64_t(0));
    int most = int(*settings_.next_tries);
    if (most && choice_.tries > most) choice_.tries = most;
    started_ms_ = core::Clock::monotonic_ms();
    next_try();
}

void UpstreamSession::next_try() {
    state_ = &add_upstream_state(request_);
    try_ms_ = core::Clock::monotonic_ms();
    clock_ = {};
    if (group_ && group_->metrics) clock_.began = core::Ticks::now();
    protocol_.reset();
    head_ = {};
    protocol_gave_up_ = false;
    at_ = At::choosing;
    if (group_ && group_->chooser) return run_chooser();
    choose_peer();
}

void UpstreamSession::choose_peer() {
    Peer* peer;
    {
        PeerLock lock(*store_);
        peer = choose(choice_, *store_);
        if (peer) state_->peer = request_.arena.copy(peer->name);
    }
    if (peer) return connect();
    if (!enter_queue()) no_peer();
}

void UpstreamSession::no_peer() {
    state_->peer = record_.group;
    state_->status = 502;
    state_->response_ms = core::Clock::monotonic_ms() - try_ms_;
    log_.action = "connecting to upstream";
    record_.peer = record_.group;
    LOG(log_, error, 0, "no live upstreams");
    conclude(Verdict::reject(502));
}

void UpstreamSession::leave_peer(TryEnd end) {
    last_failure_ = end == TryEnd::passed ? LastFailure::none
                    : end == TryEnd::next ? LastFailure::next
                                          : LastFailure::failed;
    if (clock_.began && group_->metrics && (chosen_by_script_ || choice_.current)) {
        group_->metrics->tried(*state_, clock_, end == TryEnd::failed, cached_);
    }
    if (chosen_by_script_) {
        chosen_by_script_ = false;
        if (choice_.tries > 0) --choice_.tries;
    }
    if (!choice_.current) return;
    bool disabled;
    {
        PeerLock lock(*store_);
        disabled = give_back(choice_, *store_, end, {state_->header_ms, state_->response_ms});
    }
    if (disabled) LOG(log_, warn, 0, "upstream server temporarily disabled");
    if (group_ && group_->queued) group_->room();
}

void UpstreamSession::drop_table() {
    if (!choice_.table) return;
    PeerLock lock(*store_);
    store_->drop(std::exchange(choice_.table, nullptr));
}

const core::Address& UpstreamSession::peer_address() const {
    return choice_.current ? choice_.current->address : decision_.address;
}

core::Slice UpstreamSession::connected_address() const { return record_.peer; }

uint64_t UpstreamSession::identity() {
    uint64_t identity = tls_ ? uint64_t(reinterpret_cast<uintptr_t>(settings_.tls.get())) : 0;
    if (tls_) {
        for (char c : tls_host()) identity = identity * 1099511628211ull + uint8_t(c) + 1;
        if (has_upstream_tls_scripts(*request_.location)) {
            identity ^= uint64_t(reinterpret_cast<uintptr_t>(request_.location));
        }
    }
    for (char c : decision_.host) identity = identity * 1099511628211ull + uint8_t(c) + 1;
    return identity;
}

// ---- the queue ----

bool UpstreamSession::enter_queue() {
    if (!group_ || group_->queued >= group_->queue_max) return false;
    at_ = At::queued;
    group_->queue.push_back(*this);
    ++group_->queued;
    if (!timer_.pending()) timer_.set(group_->queue_timeout_ms);
    return true;
}

void UpstreamSession::leave_queue() {
    unlink();
    --group_->queued;
}

void UpstreamSession::on_room() {
    std::fill_n(choice_.tried, Choice::words(*choice_.table), uint64_t(0));
    choice_.list = &choice_.table->primary;
    at_ = At::choosing;
    choose_peer();
}

void UpstreamSession::queue_too_long() {
    leave_queue();
    no_peer();
}

// ---- choosing by script ----

void UpstreamSession::run_chooser() {
    decision_.address = {};
    decision_.more_tries = 0;
    decision_.keepalive = false;
    decision_.recreate = false;
    ++decision_.tries_total;
    log_.action = "connecting to upstream";
    Verdict verdict = group_->chooser->choose(request_, decision_);
    if (!verdict.is(Verdict::suspended)) choice_made(verdict);
}

void UpstreamSession::choice_made(Verdict verdict) {
    if (at_ != At::choosing) return;
    if (verdict.is(Verdict::declined)) return no_peer();
    if (!verdict.is(Verdict::passed)) {
        state_->peer = record_.group;
        state_->status = verdict.status;
        finish_try();
        return conclude(verdict);
    }
    if (decision_.tls >= 0) {
        tls_ = decision_.tls == 1 && settings_.tls;
        record_.scheme = tls_ ? "https://" : "http://";
    }
    if (decision_.recreate) protocol_.recreate();
    if (decision_.address.family() == AF_UNSPEC) {
        if (!group_->placeholder) return choose_peer();
        LOG(log_, error, 0, "lua balancer: no peer set");
        return conclude(Verdict::reject(500));
    }
    choice_.tries += decision_.more_tries;
    chosen_by_script_ = true;
    state_->peer = request_.arena.copy(decision_.address.text());
    connect();
}

BalancerState UpstreamSession::balancer_state() {
    BalancerState state;
    state.decision = at_ == At::choosing && group_ && group_->chooser ? &decision_ : nullptr;
    state.group = group_;
    state.last_failure = last_failure_;
    state.last_status = last_status_;
    state.next_tries = int(*settings_.next_tries);
    state.tls = tls_;
    state.tries_left = choice_.tries;
    return state;
}

}  // namespace server
