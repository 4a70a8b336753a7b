// echo_location, echo_subrequest (and their _async forms) and echo_exec.
#include <fcntl.h>
#include <unistd.h>

#include "conf/binder.h"
#include "core/text.h"
#include "server/http/modules/echo.h"
#include "server/http/open_files.h"
#include "server/http/subrequest.h"
#include "server/http/uri.h"

namespace server::echo {

namespace {

// The parent goes on when a child that it waits for is finished.
void child_done(Request& child, void*) { go_on(*child.parent); }

// What echo_subrequest's arguments say.
struct Wanted {
    core::Slice method = "GET";
    core::Slice uri;
    core::Slice args;
    bool args_given = false;
    core::Slice body;
    core::Slice body_file;
};

// What stands behind -f.
struct Upload {
    core::Slice path;
    OpenedFile file;
};

bool parse_wanted(Request& request, const Command& command, Wanted& wanted) {
    if (command.args.size() < 2) return false;
    wanted.method = command.args[0].evaluate(request);
    wanted.uri = command.args[1].evaluate(request);
    for (size_t i = 2; i < command.args.size(); i += 2) {
        core::Slice option = command.args[i].evaluate(request);
        bool known = option == "-q" || option == "-b" || option == "-f";
        if (!known) {
            LOG(request.log, error, 0, "unknown option for echo_subrequest*: %.*s",
                int(option.size()), option.data());
            return false;
        }
        if (i + 1 == command.args.size()) return true;
        core::Slice value = command.args[i + 1].evaluate(request);
        if (option == "-q") {
            wanted.args = value;
            wanted.args_given = true;
        } else if (option == "-b") {
            wanted.body = value;
        } else {
            wanted.body_file = value;
        }
    }
    return true;
}

// The child's address; false for one that is unsafe (logged at debug level only, as upstream does).
bool set_address(Request& request, core::Slice uri, core::Slice args, bool args_given,
                 const char* directive, SubrequestOptions& options) {
    core::Slice own_args, given = uri;
    if (uri.empty() || !split_internal_uri(request.arena, uri, own_args)) {
        LOG(request.log, debug, 0, "%s sees unsafe uri: \"%.*s\"", directive, int(given.size()),
            given.data());
        return false;
    }
    options.uri = uri;
    options.args = args_given ? args : own_args;
    return true;
}

void set_length(Request& child, int64_t bytes) {
    core::Appender text(child.arena, 24);
    text.append_number(bytes);
    child.headers.set(HeaderId::content_length, text.take());
    child.headers.remove(HeaderId::transfer_encoding);
    child.head.content_length = bytes;
    child.body.content_length = bytes;
}

// The file of -f; false: there is none to be had.
bool open_body(Request& request, const Wanted& wanted, Upload& body) {
    if (wanted.body_file.empty() || !wanted.body.empty()) return true;
    conf::Binder& binder = Configuration::current().binder();
    body.path = request.arena.copy_z(binder.full_path(wanted.body_file));
    body.file = open_file(request, body.path);
    if (!body.file.error) return true;
    LOG(request.log, error, body.file.error, "%s \"%.*s\" failed", body.file.failed,
        int(body.path.size()), body.path.data());
    return false;
}

void set_body(Request& child, const Wanted& wanted, const Upload& body) {
    if (!wanted.body.empty()) {
        child.body.set_text(child, wanted.body);
        return set_length(child, int64_t(wanted.body.size()));
    }
    if (wanted.body_file.empty()) return;
    if (body.file.file()) {
        int fd = ::fcntl(body.file.file()->fd, F_DUPFD_CLOEXEC, 0);
        if (fd >= 0) child.body.set_file(child, body.path, fd, false);
    } else {
        child.body.set_text(child, child.arena.copy(body.file.bytes()));
    }
    set_length(child, body.file.size);
}

}  // namespace

Verdict run_location(Request& request, const Command& command) {
    SubrequestOptions options;
    core::Slice args = command.args.size() > 1 ? command.args[1].evaluate(request) : core::Slice{};
    bool wait = command.op == Op::location;
    if (!set_address(request, command.args[0].evaluate(request), args, command.args.size() > 1,
                     wait ? "echo_location" : "echo_location_async", options)) {
        return Verdict::reject(500);
    }
    Verdict sent = send_pending(request, state_of(request));
    if (sent.kind == Verdict::rejected) return sent;
    Request* child = create_postponed(request, options, wait ? child_done : nullptr, nullptr);
    if (!child) return Verdict::reject(500);
    child->variables = nullptr;      // its own, not its parent's
    start_subrequest(*child);
    return wait ? Verdict::suspend() : Verdict::pass();
}

Verdict run_subrequest(Request& request, const Command& command) {
    Wanted wanted;
    SubrequestOptions options;
    bool wait = command.op == Op::subrequest;
    Upload body;
    if (!parse_wanted(request, command, wanted) ||
        !set_address(request, wanted.uri, wanted.args, wanted.args_given,
                     wait ? "echo_subrequest" : "echo_subrequest_async", options) ||
        !open_body(request, wanted, body)) {
        return Verdict::reject(500);
    }
    Verdict sent = send_pending(request, state_of(request));
    if (sent.kind == Verdict::rejected) return sent;
    options.method = parse_method(wanted.method);
    options.method_name = wanted.method;
    options.inherit_body = wanted.body.empty() && wanted.body_file.empty();
    Request* child = create_postponed(request, options, wait ? child_done : nullptr, nullptr);
    if (!child) return Verdict::reject(500);
    child->variables = nullptr;
    set_body(*child, wanted, body);
    if (options.method == Method::head) child->header_only = true;
    start_subrequest(*child);
    return wait ? Verdict::suspend() : Verdict::pass();
}

Verdict run_exec(Request& request, const Command& command) {
    core::Slice uri = command.args[0].evaluate(request);
    if (uri.empty()) return Verdict::reject(400);
    bool args_given = command.args.size() > 1;
    core::Slice args = args_given ? command.args[1].evaluate(request) : core::Slice{};
    if (uri[0] == '@') {
        size_t question = uri.find('?');
        if (question != core::Slice::npos) {
            if (!args_given) args = uri.substr(question + 1);
            uri = uri.substr(0, question);
        }
        if (!args.empty()) {
            LOG(request.log, warn, 0,
                "querystring %.*s ignored when exec'ing named location %.*s", int(args.size()),
                args.data(), int(uri.size()), uri.data());
        }
        return request.named_location(uri);
    }
    core::Slice own_args;
    if (!split_internal_uri(request.arena, uri, own_args)) return Verdict::reject(500);
    return request.internal_redirect(uri, args_given ? args : own_args);
}

}  // namespace server::echo
