// echo_location, echo_subrequest (and their _async forms) and echo_exec.
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
                 SubrequestOptions& options) {
    core::Slice own_args;
    if (uri.empty() || !split_internal_uri(request.arena, uri, own_args)) return false;
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

bool set_body(Request& request, Request& child, const Wanted& wanted) {
    if (!wanted.body.empty()) {
        child.body.set_text(child, wanted.body);
        set_length(child, int64_t(wanted.body.size()));
        return true;
    }
    if (wanted.body_file.empty()) return true;
    conf::Binder& binder = Configuration::current().binder();
    core::Slice path = request.arena.copy_z(binder.full_path(wanted.body_file));
    OpenedFile file = open_file(request, path);
    if (file.error) {
        LOG(request.log, error, file.error, "%s \"%.*s\" failed", file.failed, int(path.size()),
            path.data());
        return false;
    }
    core::Chain contents;
    if (file.size) file.add_to(contents, 0, file.size);
    // In memory or as a range of the file, the body must outlive the child: it is the child's text.
    core::Slice text = file.bytes();
    if (file.size && !text.data()) {
        int fd = ::dup(file.file()->fd);
        if (fd < 0) return false;
        child.body.set_file(child, path, fd, false);
    } else {
        child.body.set_text(child, child.arena.copy(text));
    }
    set_length(child, file.size);
    return true;
}

}  // namespace

Verdict run_location(Request& request, const Command& command) {
    SubrequestOptions options;
    core::Slice args = command.args.size() > 1 ? command.args[1].evaluate(request) : core::Slice{};
    if (!set_address(request, command.args[0].evaluate(request), args, command.args.size() > 1,
                     options)) {
        return Verdict::reject(500);
    }
    Verdict sent = send_pending(request, state_of(request));
    if (sent.kind == Verdict::rejected) return sent;
    bool wait = command.op == Op::location;
    Request* child = create_postponed(request, options, wait ? child_done : nullptr, nullptr);
    if (!child) return Verdict::reject(500);
    child->variables = nullptr;      // its own, not its parent's
    start_subrequest(*child);
    return wait ? Verdict::suspend() : Verdict::pass();
}

Verdict run_subrequest(Request& request, const Command& command) {
    Wanted wanted;
    SubrequestOptions options;
    if (!parse_wanted(request, command, wanted) ||
        !set_address(request, wanted.uri, wanted.args, wanted.args_given, options)) {
        return Verdict::reject(500);
    }
    Verdict sent = send_pending(request, state_of(request));
    if (sent.kind == Verdict::rejected) return sent;
    options.method = parse_method(wanted.method);
    options.method_name = wanted.method;
    options.inherit_body = wanted.body.empty() && wanted.body_file.empty();
    bool wait = command.op == Op::subrequest;
    Request* child = create_postponed(request, options, wait ? child_done : nullptr, nullptr);
    if (!child) return Verdict::reject(500);
    child->variables = nullptr;
    if (!set_body(request, *child, wanted)) {
        destroy_subrequest(*child);
        return Verdict::reject(500);
    }
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
