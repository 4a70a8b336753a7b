// The echo family: shared by its three files (directives and variables, the commands at work,
// subrequests). Nobody else includes this.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "conf/directive.h"
#include "core/timer.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server::echo {

enum class Op : uint8_t {
    echo, request_body, sleep, flush, blocking_sleep, reset_timer, location, location_async,
    subrequest, subrequest_async, duplicate, read_request_body, foreach_split, end, abort_parent,
    exec,
};

struct Command {
    Op op;
    bool no_newline = false;             // -n
    std::vector<ComplexValue> args;      // without the options
};
using Commands = std::vector<Command>;

struct Conf {
    Commands handler;
    Commands before_body, after_body;
    conf::Setting<int> status{200};
};

// How far one request has come.
struct State {
    Request* request = nullptr;
    size_t next = 0;                     // command to run
    int64_t timer_began_ms = 0;          // wall clock; 0: when the request began
    uint64_t counter = 0;                // $echo_incr
    bool before_sent = false, after_sent = false;
    bool body_asked = false;
    core::Chain pending;                 // said but not yet sent
    core::Timer sleep;

    // echo_foreach_split: the pieces that are left, and where its body begins.
    bool in_foreach = false;
    size_t foreach_body = 0;
    core::Slice piece;
    core::Slice rest;
    core::Slice delimiter;

    State();
};

const Module& module();
State& state_of(Request& request);

// The content handler.
Verdict handle(Request& request);
// Goes on with the next command once what a command waited for is there.
void go_on(Request& request);

void say(Request& request, const Command& command, core::Chain& to);
Verdict send_header_once(Request& request);
Verdict send_pending(Request& request, State& state);

// passed, suspended or rejected.
Verdict run_location(Request& request, const Command& command);
Verdict run_subrequest(Request& request, const Command& command);
Verdict run_exec(Request& request, const Command& command);

}  // namespace server::echo
