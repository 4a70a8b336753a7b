// The static module: answers with the file that the URI names. Last handler of the content phase.
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/escape.h"
#include "server/http/open_files.h"
#include "server/http/request.h"

namespace server {

namespace {

// A folder without its slash: the client is sent to the address with it.
Verdict redirect_to_folder(Request& request) {
    core::Slice uri = escape_uri(request.arena, request.uri);
    core::Appender to(request.arena, uri.size() + request.args.size() + 2);
    to.append(uri);
    to.append('/');
    if (!request.args.empty()) {
        to.append('?');
        to.append(request.args);
    }
    request.response.location = to.take();
    return Verdict::reject(301);
}

Verdict serve(Request& request) {
    if (request.method != Method::get && request.method != Method::head &&
        request.method != Method::post) {
        return Verdict::reject(405);
    }
    if (request.uri.ends_with('/')) return Verdict::decline();
    core::Slice path = file_path(request, request.uri);
    if (!path.data()) return Verdict::reject(404);

    OpenedFile file = open_file(request, path);
    if (file.error) return reject_unopened(request, file, path);
    if (file.is_directory) return redirect_to_folder(request);
    if (!file.is_file) {
        LOG(request.log, crit, 0, "\"%.*s\" is not a regular file", int(path.size()),
            path.data());
        return Verdict::reject(404);
    }
    if (request.method == Method::post) return Verdict::reject(405);
    request.body.discard(request);
    request.log.action = "sending response to client";
    return respond_with_file(request, file);
}

constexpr PhaseHandler handlers[] = {{Phase::content, rank::last, serve}};

}  // namespace

extern const Module static_files;
constinit const Module static_files{
    .name = "static",
    .handlers = handlers,
    .exit_worker = [](Worker&) { forget_open_files(); },
};
REGISTER_MODULE(static_files);

}  // namespace server
