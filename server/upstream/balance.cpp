// Methods that look at all servers (round robin, least_conn, least_time) and random ones; the
// common rules of failures. Those by hash are in balance_hash.cpp.
#include "server/upstream/balance.h"

#include <algorithm>
#include <random>

#include "core/clock.h"
#include "server/upstream/balance_parts.h"

namespace server {

uint32_t Choice::words(const PeerTable& table) {
    return (std::max(table.primary.count, table.backup.count) + 63) / 64;
}

// While a server starts slowly its weight grows from 1 to its own in slow_start.
int weight_now(const Peer& peer) {
    if (peer.slow_start_ms == 0 || peer.start_ms == 0) return peer.weight;
    int64_t age = core::Clock::monotonic_ms() - peer.start_ms;
    if (age >= peer.slow_start_ms) return peer.weight;
    return int(peer.weight * age / peer.slow_start_ms);
}

bool is_available(const Peer& peer, int64_t now_s) {
    if (peer.down) return false;
    if (peer.max_fails && peer.fails >= peer.max_fails &&
        now_s - peer.checked_s <= peer.fail_timeout_s) {
        return false;
    }
    return !peer.max_conns || peer.conns < peer.max_conns;
}

bool can_take(const Choice& choice, uint32_t index, int64_t now_s) {
    return !choice.was_tried(index) && is_available(*choice.list->items[index], now_s);
}

Peer* take(Choice& choice, uint32_t index, const PeerStore& store, int64_t now_s) {
    Peer* peer = choice.list->items[index];
    choice.mark_tried(index);
    if (now_s - peer->checked_s > peer->fail_timeout_s) peer->checked_s = now_s;
    ++peer->conns;
    store.hold(*peer);
    choice.current = peer;
    return peer;
}

namespace {

// Smooth weighted round robin among the peers that `fits`; `best` is where it begins. A server that
// starts slowly counts with the part of its weight it has grown to.
template <class Fits>
int smooth(Choice& choice, int from, int64_t now_s, Fits&& fits) {
    int best = -1;
    int total = 0;
    for (uint32_t i = uint32_t(from); i < choice.list->count; ++i) {
        if (!can_take(choice, i, now_s) || !fits(i)) continue;
        Peer& peer = *choice.list->items[i];
        int gain = peer.effective_weight;
        if (peer.slow_start_ms) gain = std::min(gain, std::max(weight_now(peer), 1));
        peer.current_weight += gain;
        total += gain;
        if (peer.effective_weight < peer.weight) ++peer.effective_weight;
        if (best < 0 || peer.current_weight > choice.list->items[best]->current_weight) {
            best = int(i);
        }
    }
    if (best >= 0) choice.list->items[best]->current_weight -= total;
    return best;
}

// The route a sticky client asks for; draining servers serve theirs.
int find_wanted(const Choice& choice, int64_t now_s) {
    for (uint32_t i = 0; i < choice.list->count; ++i) {
        const Peer& peer = *choice.list->items[i];
        if (peer.route != choice.wanted || choice.was_tried(i)) continue;
        Peer probe = peer;
        probe.down &= uint8_t(~peer_draining);
        if (is_available(probe, now_s)) return int(i);
    }
    return -1;
}

int least_conn(Choice& choice, int64_t now_s) {
    int best = -1;
    bool many = false;
    auto load = [&](int i) { return int64_t(choice.list->items[i]->conns); };
    auto weight = [&](int i) {
        return int64_t(std::max(1, weight_now(*choice.list->items[i])));
    };
    for (uint32_t i = 0; i < choice.list->count; ++i) {
        if (!can_take(choice, i, now_s)) continue;
        int at = int(i);
        if (best < 0 || load(at) * weight(best) < load(best) * weight(at)) {
            best = at;
            many = false;
        } else if (load(at) * weight(best) == load(best) * weight(at)) {
            many = true;
        }
    }
    if (!many) return best;
    int first = best;
    return smooth(choice, first, now_s, [&](uint32_t i) {
        return load(int(i)) * weight(first) == load(first) * weight(int(i));
    });
}

// The time a request would take there: the average by how many run already. Servers of about the
// same speed count as equal, very slow ones too (then the running requests decide).
int64_t estimate(const Peer& peer, bool header) {
    constexpr int64_t step_ms = 20, most_ms = 5000;
    int64_t ms = header ? peer.header_ms : peer.response_ms;
    // One that has not been asked for long gets its chance: its average is halved with each
    // fail_timeout.
    int64_t unasked_s = core::Clock::seconds() - peer.checked_s;
    if (unasked_s > peer.fail_timeout_s) {
        ms >>= std::min<int64_t>(unasked_s / (peer.fail_timeout_s + 1), 40);
    }
    if (peer.inflight > 0) ms = std::max(ms, peer.inflight_ms);
    ms = ms > most_ms ? most_ms : (ms / step_ms + 1) * step_ms;
    return ms * (1 + peer.conns);
}

void average(int64_t& to, int64_t ms) { to = to == 0 ? ms : (to * 19 + ms) / 20; }

int least_time(Choice& choice, int64_t now_s, bool header) {
    int best = -1;
    int64_t best_time = 0;
    bool many = false;
    int64_t now_ms = core::Clock::monotonic_ms();
    auto weight = [&](int i) { return int64_t(choice.list->items[i]->weight); };
    for (uint32_t i = 0; i < choice.list->count; ++i) {
        if (!can_take(choice, i, now_s)) continue;
        Peer& peer = *choice.list->items[i];
        if (peer.inflight > 0) {
            average(peer.inflight_ms, peer.inflight_last_ms / peer.inflight +
                                          (now_ms - peer.inflight_changed_ms));
        }
        int64_t time = estimate(peer, header);
        if (best < 0 || time * weight(best) < best_time * weight(int(i))) {
            best = int(i);
            best_time = time;
            many = false;
        } else if (time * weight(best) == best_time * weight(int(i))) {
            many = true;
        }
    }
    if (!many) return best;
    int first = best;
    return smooth(choice, first, now_s, [&](uint32_t i) {
        int64_t time = estimate(*choice.list->items[i], header);
        return time * weight(first) == best_time * weight(int(i));
    });
}

int random_peer(const Choice& choice) {
    static std::minstd_rand generator{std::random_device{}()};
    int at = int(generator() % uint32_t(std::max(choice.list->total_weight, 1)));
    for (uint32_t i = 0; i < choice.list->count; ++i) {
        at -= choice.list->items[i]->weight;
        if (at < 0) return int(i);
    }
    return 0;
}

// Is a the better of two?
bool is_better(const Choice& choice, const Peer& a, const Peer& b) {
    if (choice.method == BalanceMethod::random_two) {
        return int64_t(a.conns) * b.weight <= int64_t(b.conns) * a.weight;
    }
    bool header = choice.method == BalanceMethod::random_two_header;
    return estimate(a, header) * b.weight <= estimate(b, header) * a.weight;
}

int random_one(Choice& choice, int64_t now_s, bool two) {
    int first = -1;
    while (choice.list->count > 1 && ++choice.attempts <= method_attempts_max) {
        int at = random_peer(choice);
        if (at == first || !can_take(choice, uint32_t(at), now_s)) continue;
        if (!two) return at;
        if (first < 0) {
            first = at;
            continue;
        }
        const Peer& one = *choice.list->items[first];
        const Peer& other = *choice.list->items[at];
        return is_better(choice, other, one) ? at : first;
    }
    return smooth(choice, 0, now_s, [](uint32_t) { return true; });
}

int choose_index(Choice& choice, int64_t now_s) {
    if (choice.wanted.data()) {
        int wanted = find_wanted(choice, now_s);
        if (wanted >= 0) return wanted;
    }
    switch (choice.method) {
        case BalanceMethod::least_conn: return least_conn(choice, now_s);
        case BalanceMethod::ip_hash: return by_address(choice, now_s);
        case BalanceMethod::hash: return by_key(choice, now_s);
        case BalanceMethod::consistent_hash: return by_ring(choice, now_s);
        case BalanceMethod::random: return random_one(choice, now_s, false);
        case BalanceMethod::random_two:
        case BalanceMethod::random_two_header:
        case BalanceMethod::random_two_last_byte: return random_one(choice, now_s, true);
        case BalanceMethod::least_time_header: return least_time(choice, now_s, true);
        case BalanceMethod::least_time_last_byte: return least_time(choice, now_s, false);
        case BalanceMethod::round_robin: break;
    }
    return round_robin(choice, now_s);
}

void begin_inflight(Choice& choice) {
    Peer& peer = *choice.current;
    int64_t now_ms = core::Clock::monotonic_ms();
    if (peer.inflight > 0) {
        peer.inflight_last_ms += (now_ms - peer.inflight_changed_ms) * peer.inflight;
    }
    peer.inflight_changed_ms = now_ms;
    ++peer.inflight;
    choice.inflight = true;
}

void end_inflight(Choice& choice, int64_t own_ms) {
    if (!choice.inflight) return;
    Peer& peer = *choice.current;
    choice.inflight = false;
    int64_t now_ms = core::Clock::monotonic_ms();
    peer.inflight_last_ms += (now_ms - peer.inflight_changed_ms) * peer.inflight - own_ms;
    if (--peer.inflight == 0) peer.inflight_last_ms = 0;
    peer.inflight_changed_ms = now_ms;
}

}  // namespace

int round_robin(Choice& choice, int64_t now_s) {
    return smooth(choice, 0, now_s, [](uint32_t) { return true; });
}

int round_robin_among(Choice& choice, int64_t now_s, core::Slice server) {
    return smooth(choice, 0, now_s,
                  [&](uint32_t i) { return choice.list->items[i]->server == server; });
}

Peer* choose(Choice& choice, const PeerStore& store) {
    int64_t now_s = core::Clock::seconds();
    if (choice.table->single) {
        // The only one there is, whatever its failures.
        Peer& only = *choice.list->items[0];
        if ((only.down & ~peer_draining) || (only.max_conns && only.conns >= only.max_conns)) {
            return nullptr;
        }
        take(choice, 0, store, now_s);
    } else {
        int index = choose_index(choice, now_s);
        if (index < 0 && choice.list == &choice.table->primary && choice.table->backup.count) {
            choice.list = &choice.table->backup;
            std::fill_n(choice.tried, Choice::words(*choice.table), uint64_t(0));
            index = choose_index(choice, now_s);
        }
        if (index < 0) return nullptr;
        take(choice, uint32_t(index), store, now_s);
    }
    if (choice.counts_inflight) begin_inflight(choice);
    return choice.current;
}

bool give_back(Choice& choice, const PeerStore& store, TryEnd end, const TryTimes& times) {
    Peer& peer = *choice.current;
    bool disabled = false;
    int64_t now_s = core::Clock::seconds();
    end_inflight(choice, times.response_ms);
    if (end == TryEnd::passed && times.header_ms >= 0) {
        average(peer.response_ms, times.response_ms);
        if (!choice.counts_inflight) average(peer.header_ms, times.header_ms);
    }
    if (choice.table->single) {
        peer.fails = 0;
        choice.tries = 0;
    } else if (end == TryEnd::failed) {
        ++peer.fails;
        peer.accessed_s = peer.checked_s = now_s;
        if (peer.max_fails) {
            peer.effective_weight -= peer.weight / peer.max_fails;
            disabled = peer.fails >= peer.max_fails;
        }
        if (peer.effective_weight < 0) peer.effective_weight = 0;
    } else if (peer.accessed_s < peer.checked_s) {
        // It was given another chance since it failed, and took it.
        if (peer.max_fails && peer.fails >= peer.max_fails && peer.slow_start_ms) {
            peer.start_ms = core::Clock::monotonic_ms();
        }
        peer.fails = 0;
    }
    --peer.conns;
    choice.current = nullptr;
    store.drop(&peer);
    if (choice.tries > 0) --choice.tries;
    return disabled;
}

void note_header_time(Choice& choice, int64_t ms) {
    if (!choice.counts_inflight || !choice.current) return;
    average(choice.current->header_ms, ms);
    if (choice.method == BalanceMethod::least_time_header) end_inflight(choice, ms);
}

}  // namespace server
