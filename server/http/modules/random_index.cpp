// The random_index module: for a URI that ends in '/', goes on with any file of the folder.
#include <dirent.h>
#include <sys/stat.h>

#include <cerrno>
#include <random>

#include "conf/values.h"
#include "server/http/core_conf.h"
#include "server/http/open_files.h"
#include "server/http/request.h"

namespace server {

namespace {

struct Conf {
    conf::Setting<bool> enabled{false};
};


bool is_regular(int folder, const dirent& entry) {
    if (entry.d_type == DT_REG) return true;
    if (entry.d_type != DT_UNKNOWN && entry.d_type != DT_LNK) return false;
    struct stat is;
    return ::fstatat(folder, entry.d_name, &is, 0) == 0 && S_ISREG(is.st_mode);
}

// One of the names, each as likely as the others; empty when there is none.
core::Slice choose(Request& request, DIR* folder) {
    static std::minstd_rand random{std::random_device{}()};
    core::Slice chosen;
    uint32_t count = 0;
    while (const dirent* entry = ::readdir(folder)) {
        if (entry->d_name[0] == '.' || !is_regular(::dirfd(folder), *entry)) continue;
        if (random() % ++count == 0) chosen = request.arena.copy(entry->d_name);
    }
    return chosen;
}

Verdict find_any(Request& request) {
    if (!request.uri.ends_with('/')) return Verdict::decline();
    if (request.method != Method::get && request.method != Method::head &&
        request.method != Method::post) {
        return Verdict::decline();
    }
    core::Slice path = file_path(request, request.uri);
    if (!path.data()) return Verdict::reject(404);
    DIR* folder = ::opendir(path.data());
    if (!folder) {
        FileInfo info;
        info.error = errno;
        info.failed = "opendir()";
        return reject_unopened(request, info, path);
    }
    core::Slice name = choose(request, folder);
    ::closedir(folder);
    if (name.empty()) return Verdict::decline();
    core::Appender to(request.arena, request.uri.size() + name.size());
    to.append(request.uri);
    to.append(name);
    return request.internal_redirect(to.take(), request.args);
}

constexpr conf::Directive directives[] = {
    {"random_index", conf::in_location, conf::takes_flag(), conf::field<&Conf::enabled>},
};

constexpr PhaseHandler handlers[] = {
    {Phase::content, rank::early, find_any,
     [](const void* conf) { return static_cast<const Conf*>(conf)->enabled.value; }},
};

constinit const Module random_index{
    .name = "random_index",
    .conf = conf_of<Conf>,
    .directives = directives,
    .handlers = handlers,
};
REGISTER_MODULE(random_index);

}  // namespace

}  // namespace server
