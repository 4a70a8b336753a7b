// A response's way out: header filters, body filters in slot order, then the exchange. A filter
// that waits holds back what comes behind it; the producer sees that only as back-pressure.
#include <algorithm>
#include <bit>
#include <cerrno>

#include "server/http/core_conf.h"
#include "server/http/exchange.h"
#include "server/http/file_read.h"
#include "server/http/request.h"
#include "server/http/subrequest.h"

namespace server {

namespace {

// Past this many bytes not yet taken by the client a producer should wait.
constexpr int64_t output_blocked_bytes = 64 * 1024;

// Postponed subrequests join the response in front of the filters that see it as one body.
constexpr int order_slot = int(FilterSlot::gzip);

// As much of a file as is read into memory at a time for filters that want to see its bytes.
constexpr int64_t file_piece_bytes = 32 * 1024;

bool has_file(const core::Chain& chain) {
    for (const core::Buffer* at = chain.head(); at; at = at->next) {
        if (at->is_file()) return true;
    }
    return false;
}

// Moves the first buffer of `from` to `to`; of a file its next bytes. False: it cannot be read.
bool take_piece(core::Chain& from, core::Chain& to) {
    core::Buffer* first = from.head();
    if (!first->is_file()) {
        to.push_front(from.pop());
        return true;
    }
    int64_t left = std::min(first->size(), file_piece_bytes);
    while (left > 0) {
        size_t room = size_t(std::min<int64_t>(left, core::Chunk::capacity));
        ssize_t got = read_file_at(first->fd(), to.reserve(room), room, first->file_begin);
        if (got <= 0) return false;
        to.commit(size_t(got));
        first->file_begin += got;
        left -= got;
    }
    if (first->size() > 0) return true;
    uint8_t marks = first->flags & (core::Buffer::last | core::Buffer::flush);
    if (marks) to.add_mark(marks);
    core::Chain::release(from.pop());
    return true;
}

using BodyFilter = Verdict (*)(Request&, core::Chain&);

// One body filter a slot; filled on first use, the same in every process.
struct BodyFilters {
    BodyFilter run[int(FilterSlot::count)] = {};
    BodyFilters() {
        for (const Module* module : modules()) {
            for (const Filter& filter : module->filters) {
                if (filter.body) run[int(filter.slot)] = filter.body;
            }
        }
    }
};

const BodyFilters& body_filter_table() {
    static const BodyFilters table;
    return table;
}

}  // namespace

Verdict Request::send_header() {
    if (output != Output::none) return Verdict::pass();
    if (error_status) {
        response.status = error_status;
        response.status_line = {};
    }
    if (response.status == 0) response.status = 200;
    output = Output::header_filtering;
    return run_header_filters(0);
}

Verdict Request::run_header_filters(size_t from) {
    const auto& filters = location->header_filters;
    for (size_t i = from; i < filters.size(); ++i) {
        Verdict verdict = filters[i].run(*this);
        if (verdict.is(Verdict::suspended)) {
            header_filter_at_ = uint8_t(i + 1);
            filtering_ = Filtering::header_waits;
            return Verdict::pass();
        }
        if (verdict.is(Verdict::rejected)) {
            output = Output::none;
            return verdict;
        }
    }
    if (method == Method::head) header_only = true;
    exchange->send_head(*this);
    if (output != Output::broken) output = Output::open;
    return Verdict::pass();
}

void Request::resume_header_filter(FilterSlot, Verdict verdict) {
    filtering_ = Filtering::running;
    if (!verdict.is(Verdict::rejected)) verdict = run_header_filters(header_filter_at_);
    if (filtering_ == Filtering::header_waits) return;
    if (verdict.is(Verdict::rejected)) return cut("header filter failed");
    release_held();
    if (finishing_) finish();
}

Verdict Request::send(core::Chain&& body) {
    if (output == Output::broken) return Verdict::reject(status_client_closed);
    if (end_queued_) return Verdict::pass();
    if (body.ends()) end_queued_ = true;
    bool waits = filtering_ != Filtering::running || output < Output::open || !held_.empty();
    if (!waits && !(needs_memory() && has_file(body))) return run_body_filters(0, body);
    held_.append(std::move(body));
    return release_held();
}

// A short text that nothing stands in the way of: it may go straight to the exchange.
bool Request::unfiltered(size_t bytes) const {
    return body_filters == 0 && output == Output::open && filtering_ == Filtering::running &&
           !order && !header_only && !end_queued_ && held_.empty() &&
           bytes <= Exchange::text_bytes_max;
}

Verdict Request::send_text(core::Slice text, bool last) {
    if (unfiltered(text.size())) {
        end_queued_ = last;
        exchange->send_text(*this, text, last);
        if (output == Output::broken) return Verdict::reject(status_client_closed);
        if (last) output = Output::ended;
        return Verdict::pass();
    }
    core::Chain chain;
    if (!text.empty()) chain.add_copy(text);
    if (last) chain.add_mark(core::Buffer::last);
    return send(std::move(chain));
}

Verdict Request::run_body_filters(int from, core::Chain& body) {
    uint32_t wanted = body_filters >> from << from;
    // A filter may have begun the order: it is looked at when its place has come.
    while (wanted) {
        int slot = std::countr_zero(wanted);
        if (slot >= order_slot && order && from <= order_slot) break;
        wanted &= wanted - 1;
        Verdict verdict = body_filter_table().run[slot](*this, body);
        if (verdict.is(Verdict::suspended)) {
            filtering_ = Filtering::body_waits;
            return Verdict::pass();
        }
        if (verdict.is(Verdict::rejected)) {
            cut("body filter failed");
            return verdict;
        }
    }
    if (order && from <= order_slot) return submit_ordered(*this, std::move(body));
    return deliver(body);
}

Verdict Request::send_ordered(core::Chain&& body) {
    core::Chain chain = std::move(body);
    return run_body_filters(order_slot + 1, chain);
}

Verdict Request::deliver(core::Chain& body) {
    if (body.empty()) return Verdict::pass();
    bool last = body.ends();
    if (header_only) {
        body.clear();
        if (last) body.add_mark(core::Buffer::last);
    }
    if (!body.empty()) exchange->send_body(*this, std::move(body));
    if (output == Output::broken) return Verdict::reject(status_client_closed);
    if (last) output = Output::ended;
    return Verdict::pass();
}

void Request::send_on(core::Chain&& body) {
    if (output == Output::broken) return body.clear();
    deliver(body);
    if (finishing_) finish();
}

void Request::resume_body_filter(FilterSlot slot, core::Chain&& body, Verdict verdict) {
    filtering_ = Filtering::running;
    if (verdict.is(Verdict::rejected)) return cut("body filter failed");
    core::Chain chain = std::move(body);
    run_body_filters(int(slot) + 1, chain);
    release_held();
    if (finishing_) finish();
}

// What was held back goes on, in order. Files whose bytes some filter wants to see are read in
// pieces, no faster than the client takes the result.
Verdict Request::release_held() {
    while (filtering_ == Filtering::running && output >= Output::open && !held_.empty()) {
        core::Chain piece;
        if (!needs_memory() || !has_file(held_)) {
            piece = std::move(held_);
        } else if (output_blocked()) {
            break;
        } else if (!take_piece(held_, piece)) {
            LOG(log, crit, errno, "pread() failed");
            cut();
            return Verdict::reject(500);
        }
        Verdict verdict = run_body_filters(0, piece);
        if (verdict.is(Verdict::rejected)) return verdict;
    }
    return Verdict::pass();
}

Verdict Request::respond(int status, core::Slice content_type, core::Slice body) {
    response.status = uint16_t(status);
    response.content_type = content_type;
    response.content_length = int64_t(body.size());
    Verdict verdict = send_header();
    if (verdict.is(Verdict::rejected)) return verdict;
    if (unfiltered(body.size())) {
        verdict = send_text(body, true);
    } else {
        core::Chain chain;
        chain.add_from_request(body).flags |= core::Buffer::last;
        verdict = send(std::move(chain));
    }
    return verdict.is(Verdict::rejected) ? verdict : Verdict::finish();
}

bool Request::output_blocked() const {
    if (output == Output::broken) return false;
    return filtering_ != Filtering::running || exchange->pending_bytes() > output_blocked_bytes;
}

void Request::on_drained(Drain& drain) {
    drains_.push_back(drain);
    if (filtering_ == Filtering::running && exchange->pending_bytes() == 0) {
        core::Reactor::current().at_end(core::Reactor::work, drain_call_);
    } else if (core().postpone_output->count > 0) {
        exchange->flush(*this);
    }
}

void Request::drained() {
    if (filtering_ != Filtering::running && output != Output::broken) return;
    release_held();
    core::List<Drain> round;
    round.take_all(drains_);
    while (Drain* drain = round.pop_front()) drain->run(*this, drain->argument);
    if (finishing_ && !done) finish();
}

}  // namespace server
