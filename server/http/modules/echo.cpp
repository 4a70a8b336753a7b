// The echo module: its directives, variables and filter (echo_before_body, echo_after_body). The
// commands run in echo_run.cpp.
#include "server/http/modules/echo.h"

#include "conf/binder.h"
#include "conf/values.h"
#include "core/clock.h"
#include "core/text.h"

namespace server::echo {

namespace {

// ---- directives ----

// Options are constant words that begin with '-' and stand in front of the others; "--" ends them.
conf::Result<void> compile(Command& command, const conf::Line& line) {
    bool options = true;
    for (size_t i = 0; i < line.count(); ++i) {
        core::Slice arg = line.arg(i);
        if (options && arg.size() > 1 && arg[0] == '-' && arg.find('$') == core::Slice::npos) {
            if (arg[1] == '-') {
                options = false;
            } else if (arg == "-n") {
                command.no_newline = true;
            }
            continue;
        }
        options = false;
        auto value = ComplexValue::compile(arg, line);
        if (!value) return value.take_error();
        command.args.push_back(std::move(*value));
    }
    return {};
}

template <Op op>
conf::Result<void> add_command(Conf& conf, const conf::Line& line) {
    Command command{op, false, {}};
    auto compiled = compile(command, line);
    if (!compiled) return compiled;
    if (conf.handler.empty()) {
        auto set = set_content_handler(line, handle);
        if (!set) return set;
    }
    conf.handler.push_back(std::move(command));
    return {};
}

template <Commands Conf::*list>
conf::Result<void> add_around(Conf& conf, const conf::Line& line) {
    Command command{Op::echo, false, {}};
    auto compiled = compile(command, line);
    if (!compiled) return compiled;
    (conf.*list).push_back(std::move(command));
    return {};
}

conf::Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    if (conf.handler.empty()) conf.handler = outer->handler;
    if (conf.before_body.empty()) conf.before_body = outer->before_body;
    if (conf.after_body.empty()) conf.after_body = outer->after_body;
    return {};
}

// ---- the filter ----

Verdict filter_header(Request& request) {
    if (request.header_only) return Verdict::pass();
    request.response.content_length = -1;
    request.response.allow_ranges = false;
    request.want_body(FilterSlot::echo);
    return Verdict::pass();
}

void say_all(Request& request, const Commands& commands, core::Chain& to) {
    for (const Command& command : commands) say(request, command, to);
}

Verdict filter_body(Request& request, core::Chain& chain) {
    const Conf& conf = request.conf<Conf>(module());
    State& state = state_of(request);
    if (chain.empty()) return Verdict::pass();
    if (!state.before_sent) {
        state.before_sent = true;
        core::Chain before;
        say_all(request, conf.before_body, before);
        before.append(std::move(chain));
        chain = std::move(before);
    }
    if (chain.ends() && !conf.after_body.empty() && !state.after_sent) {
        state.after_sent = true;
        chain.tail()->flags &= uint8_t(~core::Buffer::last);
        say_all(request, conf.after_body, chain);
        chain.add_mark(core::Buffer::last);
    }
    return Verdict::pass();
}

// ---- variables ----

Value client_request_headers(Request& request, core::Slice, uintptr_t) {
    core::Slice raw = request.main->head.raw;
    return raw.empty() ? Value::none() : Value(raw);
}

Value client_request_method(Request& request, core::Slice, uintptr_t) {
    return request.main->head.method_name;
}

Value request_method(Request& request, core::Slice, uintptr_t) { return request.head.method_name; }

Value request_uri(Request& request, core::Slice, uintptr_t) {
    return request.uri.empty() ? Value::none() : Value(request.uri);
}

Value request_body(Request& request, core::Slice, uintptr_t) {
    if (!request.body.complete() || request.body.file_fd() >= 0 ||
        request.body.buffers().empty()) {
        return Value::none();
    }
    return request.body.text(request);
}

Value response_status(Request& request, core::Slice, uintptr_t) {
    if (request.response.status == 0) return Value::none();
    core::Appender to(request.arena, 24);
    to.append_number(request.response.status);
    return to.take();
}

Value incr(Request& request, core::Slice, uintptr_t) {
    core::Appender to(request.arena, 24);
    to.append_number(int64_t(++state_of(*request.main).counter));
    return to.take();
}

Value it(Request& request, core::Slice, uintptr_t) {
    const State* state = request.state<State>(module());
    return state && state->in_foreach ? Value(state->piece) : Value::none();
}

Value timer_elapsed(Request& request, core::Slice, uintptr_t) {
    State& state = state_of(request);
    if (!state.timer_began_ms) state.timer_began_ms = request.start_ms;
    core::Clock::update();
    int64_t ms = std::max<int64_t>(core::Clock::wall_ms() - state.timer_began_ms, 0);
    core::Appender to(request.arena, 32);
    to.append_number(ms / 1000);
    to.append('.');
    to.append(char('0' + ms / 100 % 10));
    to.append(char('0' + ms / 10 % 10));
    to.append(char('0' + ms % 10));
    return to.take();
}

constexpr Variable variables[] = {
    {"echo_timer_elapsed", timer_elapsed, Variable::volatile_},
    {"echo_request_method", request_method, Variable::volatile_},
    {"echo_cacheable_request_uri", request_uri},
    {"echo_request_uri", request_uri, Variable::volatile_},
    {"echo_client_request_method", client_request_method, Variable::volatile_},
    {"echo_request_body", request_body, Variable::volatile_},
    {"echo_client_request_headers", client_request_headers, Variable::volatile_},
    {"echo_it", it, Variable::volatile_},
    {"echo_incr", incr, Variable::volatile_},
    {"echo_response_status", response_status, Variable::volatile_},
};

using namespace conf;
constexpr uint32_t where = in_location | in_location_if;
constexpr Arity any = takes(0, INT32_MAX);
constexpr Directive directives[] = {
    {"echo", where, any, call<add_command<Op::echo>>},
    {"echo_request_body", where, takes(0), call<add_command<Op::request_body>>},
    {"echo_sleep", where, takes(1), call<add_command<Op::sleep>>},
    {"echo_flush", where, takes(0), call<add_command<Op::flush>>},
    {"echo_blocking_sleep", where, takes(1), call<add_command<Op::blocking_sleep>>},
    {"echo_reset_timer", where, takes(0), call<add_command<Op::reset_timer>>},
    {"echo_before_body", where, any, call<add_around<&Conf::before_body>>},
    {"echo_after_body", where, any, call<add_around<&Conf::after_body>>},
    {"echo_location_async", where, takes(1, 2), call<add_command<Op::location_async>>},
    {"echo_location", where, takes(1, 2), call<add_command<Op::location>>},
    {"echo_subrequest_async", where, takes_at_least(2), call<add_command<Op::subrequest_async>>},
    {"echo_subrequest", where, takes_at_least(2), call<add_command<Op::subrequest>>},
    {"echo_duplicate", where, takes_at_least(2), call<add_command<Op::duplicate>>},
    {"echo_read_request_body", where, takes(0), call<add_command<Op::read_request_body>>},
    {"echo_foreach_split", where, takes_at_least(2), call<add_command<Op::foreach_split>>},
    {"echo_end", where, takes(0), call<add_command<Op::end>>},
    {"echo_abort_parent", where, takes(0), call<add_command<Op::abort_parent>>},
    {"echo_exec", where, takes(1, 2), call<add_command<Op::exec>>},
    {"echo_status", where, takes(1), field<&Conf::status>},
};

constexpr Filter filters[] = {
    {FilterSlot::echo, filter_header, filter_body,
     [](const void* conf) {
         auto& it = *static_cast<const Conf*>(conf);
         return !it.before_body.empty() || !it.after_body.empty();
     }},
};

constinit const Module echo_module{
    .name = "echo",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
    .filters = filters,
    .has_request_state = true,
};
REGISTER_MODULE(echo_module);

}  // namespace

const Module& module() { return echo_module; }

}  // namespace server::echo
