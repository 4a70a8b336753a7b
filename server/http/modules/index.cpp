// The index module: for a URI that ends in '/', goes on with the first index file that is there.
#include <cerrno>
#include <cstring>

#include "conf/binder.h"
#include "server/http/core_conf.h"
#include "server/http/open_files.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server {

namespace {

struct Conf {
    std::vector<ComplexValue> names;
};

const Module& index_module();

conf::Result<void> add_names(Conf& conf, const conf::Line& line) {
    for (size_t i = 0; i < line.count(); ++i) {
        core::Slice name = line.arg(i);
        if (name.empty()) {
            return conf::Error{"index \"\" in \"index\" directive is invalid"};
        }
        if (name[0] == '/' && i + 1 != line.count()) {
            line.binder.warn(line.node.place,
                             "only the last index in \"index\" directive should be absolute");
        }
        auto compiled = ComplexValue::compile(name, line);
        if (!compiled) return compiled.take_error();
        conf.names.push_back(std::move(*compiled));
    }
    return {};
}

conf::Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!conf.names.empty()) return {};
    if (outer && !outer->names.empty()) {
        conf.names = outer->names;
    } else {
        conf.names.emplace_back(core::Slice("index.html"));
    }
    return {};
}

// A missing index file in a missing folder is an error of its own.
Verdict test_folder(Request& request, core::Slice folder, core::Slice file) {
    while (folder.size() > 1 && folder.ends_with('/')) folder.remove_suffix(1);
    folder = request.arena.copy_z(folder);
    OpenedFile found = open_file(request, folder, FileUse::test);
    if (found.is_directory || found.error == EACCES) return Verdict::pass();
    if (found.error == ENOENT) {
        if (request.core().log_not_found) {
            LOG(request.log, error, ENOENT, "\"%.*s\" is not found", int(file.size()),
                file.data());
        }
        return Verdict::reject(404);
    }
    if (found.error == EMLINK || found.error == ELOOP) return Verdict::reject(403);
    if (found.error) {
        LOG(request.log, crit, found.error, "%s \"%.*s\" failed", found.failed,
            int(folder.size()), folder.data());
    } else {
        LOG(request.log, alert, 0, "\"%.*s\" is not a directory", int(folder.size()),
            folder.data());
    }
    return Verdict::reject(500);
}

// What an error on one index file means: passed (try the next one) or the answer.
Verdict judge(Request& request, const OpenedFile& found, core::Slice path, core::Slice folder,
              bool& folder_tested) {
    switch (found.error) {
    case EMLINK: case ELOOP: return Verdict::reject(403);
    case EACCES:
        LOG(request.log, error, EACCES, "\"%.*s\" is forbidden", int(path.size()), path.data());
        return Verdict::reject(403);
    case ENOTDIR: case ENAMETOOLONG:
        if (request.core().log_not_found) {
            LOG(request.log, error, found.error, "\"%.*s\" is not found", int(path.size()),
                path.data());
        }
        return Verdict::reject(404);
    }
    if (!folder_tested) {
        Verdict verdict = test_folder(request, folder, path);
        if (verdict.kind != Verdict::passed) return verdict;
        folder_tested = true;
    }
    if (found.error == ENOENT) return Verdict::pass();
    return reject_unopened(request, found, path);
}

core::Slice join(Request& request, core::Slice a, core::Slice b) {
    char* to = request.arena.bytes(a.size() + b.size() + 1);
    std::memcpy(to, a.data(), a.size());
    std::memcpy(to + a.size(), b.data(), b.size());
    to[a.size() + b.size()] = '\0';
    return {to, a.size() + b.size()};
}

Verdict find_index(Request& request) {
    if (!request.uri.ends_with('/')) return Verdict::decline();
    if (request.method != Method::get && request.method != Method::head &&
        request.method != Method::post) {
        return Verdict::decline();
    }
    core::Slice folder;
    bool folder_tested = false;
    for (const ComplexValue& wanted : request.conf<Conf>(index_module()).names) {
        core::Slice name = wanted.evaluate(request);
        if (name.starts_with('/')) return request.internal_redirect(name, request.args);
        if (!folder.data()) folder = file_path(request, request.uri);
        if (!folder.data()) return Verdict::reject(404);
        core::Slice path = join(request, folder, name);
        OpenedFile found = open_file(request, path, FileUse::test);
        if (!found.error) {
            return request.internal_redirect(join(request, request.uri, name), request.args);
        }
        Verdict verdict = judge(request, found, path, folder, folder_tested);
        if (verdict.kind != Verdict::passed) return verdict;
    }
    return Verdict::decline();
}

constexpr conf::Directive directives[] = {
    {"index", conf::in_any_http, conf::takes_at_least(1), conf::call<add_names>},
};
constexpr PhaseHandler handlers[] = {{Phase::content, rank::early + 10, find_index}};

constinit const Module index_files{
    .name = "index",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .handlers = handlers,
};
const Module& index_module() { return index_files; }
REGISTER_MODULE(index_files);

}  // namespace

}  // namespace server
