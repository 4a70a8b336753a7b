// Byte ranges: Range, If-Range, 206 with one part or several (multipart/byteranges), 416. The
// header filter stands behind the filters that change the length (they forbid ranges); the body
// filter in front of all others.
#include <cstdio>
#include <cstring>

#include "core/clock.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/range_parse.h"
#include "server/http/request.h"

namespace server {

namespace {

// The answer's parts, in the order in which they were asked for.
struct State {
    const ByteRange* ranges = nullptr;
    int64_t count = 0;
    int64_t offset = 0;              // of the next body byte to come
    core::Slice boundary;            // several parts: "\r\n--00000000000000000001"
    core::Slice part_type;           // "Content-Type: …\r\n", maybe empty
    int64_t length = 0;              // of the whole body
    core::Chain gathered;            // several parts are cut out of the whole body
    bool done = false;
};

const Module& module();

// Does If-Range, where present, name the response at hand?
bool if_range_holds(const Request& request) {
    const Header* field = request.headers.find(HeaderId::if_range);
    if (!field) return true;
    core::Slice value = field->value;
    if (value.size() >= 2 && value.back() == '"') return value == request.response.etag;
    if (request.response.last_modified == -1) return false;
    return core::parse_http_date(value) == request.response.last_modified;
}

core::Slice print_range(Request& request, const ByteRange& range, int64_t length) {
    char* room = request.arena.bytes(80);
    int size = std::snprintf(room, 80, "bytes %lld-%lld/%lld", (long long)range.begin,
                             (long long)range.end - 1, (long long)length);
    return {room, size_t(size)};
}

core::Slice print(Request& request, core::Slice a, core::Slice b, core::Slice c) {
    core::Appender to(request.arena, a.size() + b.size() + c.size());
    to.append(a);
    to.append(b);
    to.append(c);
    return to.take();
}

Verdict refuse(Request& request) {
    core::Appender to(request.arena, 32);
    to.append("bytes */");
    to.append_number(request.response.content_length);
    request.response.headers.set(HeaderId::content_range, to.take());
    request.response.content_length = -1;
    return Verdict::reject(416);
}

// What stands in front of a part, behind the boundary.
core::Slice part_head(Request& request, const State& state, const ByteRange& range) {
    core::Appender to(request.arena, 256);
    to.append(state.boundary);
    to.append("\r\n");
    to.append(state.part_type);
    to.append("Content-Range: ");
    to.append(print_range(request, range, state.length));
    to.append("\r\n\r\n");
    return to.take();
}

void set_multipart(Request& request, State& state) {
    static uint64_t next_boundary = uint64_t(core::Clock::wall_ms()) % 1000000 * 1000;
    Response& response = request.response;
    char digits[32];
    int size = std::snprintf(digits, sizeof digits, "%020llu", (unsigned long long)++next_boundary);
    core::Slice number(digits, size_t(size));
    state.boundary = print(request, "\r\n--", number, {});
    core::Slice type = response.content_type;
    if (!type.empty() && !response.charset.empty()) {
        type = print(request, type, "; charset=", response.charset);
    }
    if (!type.empty()) state.part_type = print(request, "Content-Type: ", type, "\r\n");
    response.content_type = print(request, "multipart/byteranges; boundary=", number, {});
    response.charset = {};
    int64_t total = int64_t(state.boundary.size()) + 4;
    for (int64_t i = 0; i < state.count; ++i) {
        const ByteRange& range = state.ranges[i];
        total += int64_t(part_head(request, state, range).size()) + range.end - range.begin;
    }
    response.content_length = total;
}

Verdict filter_header(Request& request) {
    Response& response = request.response;
    if (response.status != 200 || !response.allow_ranges || request.parent ||
        response.content_length == -1 || request.head.version < 10) {
        return Verdict::pass();
    }
    int64_t ranges_max = request.core().max_ranges;
    if (ranges_max == 0) return Verdict::pass();
    const Header* field = request.headers.find(HeaderId::range);
    ParsedRanges parsed;
    ByteRange* ranges = nullptr;
    if (field && if_range_holds(request)) {
        ranges = request.arena.make_array<ByteRange>(size_t(ranges_in(field->value)));
        parsed = parse_ranges(field->value, response.content_length, ranges_max, ranges);
    }
    if (parsed.outcome == RangeOutcome::unsatisfiable) return refuse(request);
    if (parsed.outcome == RangeOutcome::ignored) {
        response.headers.set(HeaderId::accept_ranges, "bytes");
        return Verdict::pass();
    }
    auto& state = request.need_state<State>(module());
    state.ranges = ranges;
    state.count = parsed.count;
    state.length = response.content_length;
    response.status = 206;
    response.status_line = {};
    if (parsed.count == 1) {
        response.headers.set(HeaderId::content_range,
                             print_range(request, ranges[0], state.length));
        response.content_length = ranges[0].end - ranges[0].begin;
    } else {
        set_multipart(request, state);
    }
    request.want_body(FilterSlot::range_body);
    return Verdict::pass();
}

// Appends [from, to) of a buffer to a chain, sharing its owner.
void add_part(core::Chain& to, const core::Buffer& of, int64_t begin, int64_t end) {
    if (of.owner) of.owner->hold();
    if (of.is_file()) {
        to.add_file(static_cast<core::OpenFile*>(of.owner), of.file_begin + begin,
                    of.file_begin + end);
        return;
    }
    uint8_t flags = of.flags & core::Buffer::in_request;
    to.add({of.begin + begin, size_t(end - begin)}, of.owner, flags);
}

// What a range takes of a chain whose first byte is number `offset` of the body.
void cut_out(const core::Chain& from, int64_t offset, const ByteRange& range, core::Chain& to) {
    for (core::Buffer* at = from.head(); at; at = at->next) {
        int64_t size = at->size();
        int64_t begin = std::max(range.begin - offset, int64_t(0));
        int64_t end = std::min(range.end - offset, size);
        if (begin < end) add_part(to, *at, begin, end);
        offset += size;
    }
}

void add_parts(Request& request, State& state, core::Chain& to) {
    for (int64_t i = 0; i < state.count; ++i) {
        to.add_from_request(part_head(request, state, state.ranges[i]));
        cut_out(state.gathered, 0, state.ranges[i], to);
    }
    to.add_from_request(print(request, state.boundary, "--\r\n", {}));
    state.gathered.clear();
}

Verdict filter_body(Request& request, core::Chain& chain) {
    auto* state = request.state<State>(module());
    if (!state) return Verdict::pass();
    bool last = chain.ends();
    core::Chain out;
    if (state->done) {
        // Nothing behind the range goes out.
    } else if (state->count == 1) {
        int64_t bytes = chain.bytes();
        cut_out(chain, state->offset, state->ranges[0], out);
        state->offset += bytes;
    } else {
        state->offset += chain.bytes();
        state->gathered.append(std::move(chain));
        if (last || state->offset >= state->length) {
            add_parts(request, *state, out);
            state->done = true;
        }
    }
    if (last) out.add_mark(core::Buffer::last);
    chain = std::move(out);
    return Verdict::pass();
}

constexpr Filter filters[] = {
    {FilterSlot::range_body, nullptr, filter_body},
    {FilterSlot::range_header, filter_header, nullptr},
};

constinit const Module range_filter{
    .name = "range",
    .filters = filters,
    .has_request_state = true,
};
const Module& module() { return range_filter; }
REGISTER_MODULE(range_filter);

}  // namespace

}  // namespace server
