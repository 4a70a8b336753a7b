// The gzip_static module: answers with FILE.gz in place of FILE. Runs just before static.
#include <cerrno>
#include <cstring>

#include "conf/binder.h"
#include "conf/values.h"
#include "server/http/core_conf.h"
#include "server/http/gzip_accept.h"
#include "server/http/open_files.h"
#include "server/http/request.h"

namespace server {

namespace {

enum class Mode : uint8_t { off, on, always };
constexpr conf::Choice<Mode> mode_words[] = {
    {"off", Mode::off}, {"on", Mode::on}, {"always", Mode::always},
};
constexpr const auto& choices(Mode) { return mode_words; }

struct Conf {
    conf::Setting<Mode> mode{Mode::off};
};

const Module& module();

Verdict send_compressed(Request& request, const OpenedFile& file) {
    request.body.discard(request);
    request.log.action = "sending response to client";
    request.response.headers.set(HeaderId::content_encoding, "gzip");
    return respond_with_file(request, file);
}

Verdict serve(Request& request) {
    if (request.method != Method::get && request.method != Method::head) return Verdict::decline();
    if (request.uri.ends_with('/')) return Verdict::decline();
    Mode mode = request.conf<Conf>(module()).mode;
    bool accepted = mode == Mode::always || accepts_gzip(request);
    if (!accepted && !gzip_vary_on(request)) return Verdict::decline();

    core::Slice plain = file_path(request, request.uri);
    if (!plain.data()) return Verdict::reject(404);
    constexpr core::Slice suffix(".gz\0", 4);
    char* room = request.arena.bytes(plain.size() + suffix.size());
    std::memcpy(room, plain.data(), plain.size());
    std::memcpy(room + plain.size(), suffix.data(), suffix.size());
    core::Slice path(room, plain.size() + suffix.size() - 1);

    OpenedFile file = open_file(request, path);
    if (file.error) {
        bool absent = file.error == ENOENT || file.error == ENOTDIR || file.error == ENAMETOOLONG;
        if (!absent) reject_unopened(request, file, path);
        return Verdict::decline();
    }
    if (mode == Mode::on) {
        note_gzip_vary(request);
        if (!accepted) return Verdict::decline();
    }
    if (file.is_directory) return Verdict::decline();
    if (!file.is_file) {
        LOG(request.log, crit, 0, "\"%.*s\" is not a regular file", int(path.size()),
            path.data());
        return Verdict::reject(404);
    }
    return send_compressed(request, file);
}

constexpr conf::Directive directives[] = {
    {"gzip_static", conf::in_any_http, conf::takes(1), conf::field<&Conf::mode>},
};

constexpr PhaseHandler handlers[] = {
    {Phase::content, rank::late, serve,
     [](const void* conf) { return static_cast<const Conf*>(conf)->mode.value != Mode::off; }},
};

constinit const Module gzip_static{
    .name = "gzip_static",
    .conf = conf_of<Conf>,
    .directives = directives,
    .handlers = handlers,
};
const Module& module() { return gzip_static; }
REGISTER_MODULE(gzip_static);

}  // namespace

}  // namespace server
