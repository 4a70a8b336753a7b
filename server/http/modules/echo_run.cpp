// The echo commands at work: one after the other, stopping at those that wait. What is said is
// collected and sent at once before anything that waits or hands over.
#include <fcntl.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/modules/echo.h"

namespace server::echo {

namespace {

// "1.25" → 1250; -1 when malformed.
int64_t parse_seconds(core::Slice text) {
    int64_t ms = 0;
    int decimals = -1;
    if (text.empty() || text == ".") return -1;
    for (char c : text) {
        if (c == '.' && decimals < 0) {
            decimals = 0;
        } else if (!core::is_digit(c) || decimals == 3 || ms > INT32_MAX) {
            return -1;
        } else {
            ms = ms * 10 + (c - '0');
            if (decimals >= 0) ++decimals;
        }
    }
    for (int i = decimals < 0 ? 0 : decimals; i < 3; ++i) ms *= 10;
    return ms;
}

int64_t parse_count(core::Slice text) {
    int64_t count = 0;
    if (text.empty()) return -1;
    for (char c : text) {
        if (c == '_') continue;
        if (!core::is_digit(c) || count > INT32_MAX) return -1;
        count = count * 10 + (c - '0');
    }
    return count;
}

int64_t duration(Request& request, const Command& command) {
    core::Slice text = command.args[0].evaluate(request);
    int64_t ms = parse_seconds(text);
    if (ms < 0) {
        LOG(request.log, error, 0, "invalid sleep duration \"%.*s\"", int(text.size()),
            text.data());
    }
    return ms;
}

Verdict run_sleep(Request& request, State& state, const Command& command) {
    int64_t ms = duration(request, command);
    if (ms < 0) return Verdict::reject(400);
    if (command.op == Op::blocking_sleep) {
        ::usleep(useconds_t(ms * 1000));
        return Verdict::pass();
    }
    if (!state.pending.empty()) {      // a head alone waits for what comes behind it
        Verdict sent = send_pending(request, state);
        if (sent.kind == Verdict::rejected) return sent;
    }
    state.sleep.set(ms);
    return Verdict::suspend();
}

Verdict run_duplicate(Request& request, State& state, const Command& command) {
    constexpr int64_t bytes_max = int64_t(1) << 30;
    core::Slice count_text = command.args[0].evaluate(request);
    int64_t count = parse_count(count_text);
    core::Slice text = command.args[1].evaluate(request);
    if (count < 0 || count * int64_t(text.size()) > bytes_max) {
        LOG(request.log, error, 0, "invalid size specified: \"%.*s\"", int(count_text.size()),
            count_text.data());
        return Verdict::reject(500);
    }
    for (; count > 0 && !text.empty(); --count) state.pending.add_copy(text);
    return Verdict::pass();
}

Verdict run_request_body(Request& request, State& state) {
    int fd = request.body.file_fd();
    if (fd >= 0) {
        int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (own < 0) return Verdict::reject(500);
        state.pending.add_file(core::OpenFile::adopt(own), 0, request.body.size());
        return Verdict::pass();
    }
    for (core::Buffer* at = request.body.buffers().head(); at; at = at->next) {
        if (at->size() == 0) continue;
        if (at->owner) at->owner->hold();
        if (at->is_file()) {
            state.pending.add_file(static_cast<core::OpenFile*>(at->owner), at->file_begin,
                                   at->file_end);
        } else {
            uint8_t flags = at->flags & core::Buffer::in_request;
            state.pending.add(at->text(), at->owner, flags);
        }
    }
    return Verdict::pass();
}

Verdict read_body(Request& request, State& state) {
    state.body_asked = true;
    const CoreConf& core = request.core();
    RequestBody::Options options;
    options.in_single_buffer = core.client_body_in_single_buffer;
    options.in_file_only = core.client_body_in_file_only.value != BodyFile::off;
    options.clean_file = core.client_body_in_file_only.value != BodyFile::on;
    return request.body.read(
        request, options,
        [](Request& it, void*, Verdict verdict) {
            if (verdict.kind == Verdict::rejected) return it.resume(verdict);
            go_on(it);
        },
        nullptr);
}

// ---- echo_foreach_split ----

// The next piece that is not empty; false when there is none.
bool next_piece(State& state) {
    while (!state.rest.empty()) {
        size_t at = state.delimiter.empty() ? core::Slice::npos : state.rest.find(state.delimiter);
        bool found = at != core::Slice::npos;
        state.piece = state.rest.substr(0, at);
        state.rest.remove_prefix(found ? at + state.delimiter.size() : state.rest.size());
        if (!state.piece.empty()) return true;
    }
    return false;
}

Verdict begin_foreach(Request& request, State& state, const Commands& commands,
                      const Command& command) {
    if (state.in_foreach) {
        LOG(request.log, error, 0, "Nested echo_foreach not supported yet.");
        return Verdict::reject(500);
    }
    if (command.args.size() < 2) {
        LOG(request.log, error, 0,
            "echo_foreach should take at least two arguments. (if your delimiter starts with "
            "\"-\", preceding it with a \"--\".)");
        return Verdict::reject(500);
    }
    state.delimiter = command.args[0].evaluate(request);
    state.rest = command.args[1].evaluate(request);
    state.in_foreach = true;
    state.foreach_body = state.next;
    if (next_piece(state)) return Verdict::pass();
    state.in_foreach = false;
    while (state.next < commands.size() && commands[state.next].op != Op::end) ++state.next;
    ++state.next;
    return Verdict::pass();
}

Verdict end_foreach(Request& request, State& state) {
    if (!state.in_foreach) {
        LOG(request.log, error, 0,
            "Found a echo_end that has no corresponding echo_foreach before it.");
        return Verdict::reject(500);
    }
    if (next_piece(state)) {
        state.next = state.foreach_body;
    } else {
        state.in_foreach = false;
    }
    return Verdict::pass();
}

// ---- one command, all commands ----

// Filters that look at the body see each command's output as a piece of its own.
Verdict show_filters(Request& request, State& state) {
    Verdict verdict = send_header_once(request);
    if (verdict.kind == Verdict::rejected || !request.body_filters) return verdict;
    return send_pending(request, state);
}

Verdict run_flush(Request& request, State& state) {
    state.pending.add_mark(core::Buffer::flush);
    return send_pending(request, state);
}

// Subrequests: the request's body comes first. Those that lead make the filters see the beginning
// of the body now, so that echo_before_body stands in front of them.
Verdict hand_over(Request& request, State& state, const Command& command) {
    if (!state.body_asked && !request.body.complete()) {
        --state.next;      // this command runs again when the body is there
        return read_body(request, state);
    }
    if (request.output == Request::Output::none && state.pending.empty()) {
        state.pending.add_mark(core::Buffer::sync);
    }
    bool location = command.op == Op::location || command.op == Op::location_async;
    return location ? run_location(request, command) : run_subrequest(request, command);
}

Verdict run_one(Request& request, State& state, const Commands& commands, const Command& command) {
    switch (command.op) {
    case Op::echo: say(request, command, state.pending); return show_filters(request, state);
    case Op::duplicate: return run_duplicate(request, state, command);
    case Op::flush: return run_flush(request, state);
    case Op::sleep: case Op::blocking_sleep: return run_sleep(request, state, command);
    case Op::reset_timer:
        core::Clock::update();
        state.timer_began_ms = core::Clock::wall_ms();
        return Verdict::pass();
    case Op::read_request_body: return read_body(request, state);
    case Op::request_body: return run_request_body(request, state);
    case Op::foreach_split: return begin_foreach(request, state, commands, command);
    case Op::end: return end_foreach(request, state);
    case Op::location: case Op::location_async: case Op::subrequest: case Op::subrequest_async:
        return hand_over(request, state, command);
    case Op::exec: return run_exec(request, command);
    case Op::abort_parent: return Verdict::pass();
    }
    return Verdict::pass();
}

Verdict run_all(Request& request, State& state) {
    const Commands& commands = request.conf<Conf>(module()).handler;
    while (state.next < commands.size()) {
        const Command& command = commands[state.next++];
        Verdict verdict = run_one(request, state, commands, command);
        if (verdict.kind != Verdict::passed) return verdict;
    }
    Verdict verdict = send_header_once(request);
    if (verdict.kind == Verdict::rejected) return verdict;
    if (!state.body_asked) request.body.discard(request);
    state.pending.add_mark(core::Buffer::last);
    verdict = request.send(std::move(state.pending));
    return verdict.kind == Verdict::rejected ? verdict : Verdict::finish();
}

}  // namespace

State::State()
    : sleep([](void* self) { go_on(*static_cast<State*>(self)->request); }, this) {}

State& state_of(Request& request) {
    State& state = request.need_state<State>(module());
    state.request = &request;
    return state;
}

Verdict handle(Request& request) { return run_all(request, state_of(request)); }

void go_on(Request& request) {
    Verdict verdict = run_all(request, state_of(request));
    if (verdict.kind != Verdict::suspended) request.resume(verdict);
}

// Words with spaces between them, and a line end.
void say(Request& request, const Command& command, core::Chain& to) {
    bool first = true;
    for (const ComplexValue& arg : command.args) {
        if (!first) to.add(" ");
        first = false;
        core::Slice text = arg.evaluate(request);
        if (text.empty()) continue;
        uint8_t flags = arg.is_constant() ? 0 : core::Buffer::in_request;
        to.add(text, nullptr, flags);
    }
    if (!command.no_newline) to.add("\n");
}

Verdict send_header_once(Request& request) {
    if (request.output != Request::Output::none) return Verdict::pass();
    Response& response = request.response;
    response.status = uint16_t(request.conf<Conf>(module()).status.value);
    if (response.content_type.empty() && !response.content_type_cleared) {
        response.content_type = mime_type(request);
    }
    response.content_length = -1;
    response.allow_ranges = false;
    return request.send_header();
}

Verdict send_pending(Request& request, State& state) {
    Verdict verdict = send_header_once(request);
    if (verdict.kind == Verdict::rejected || state.pending.empty()) return verdict;
    return request.send(std::move(state.pending));
}

}  // namespace server::echo
