// nginx's rules for -p and -c, and what stands in for them.
#include "server/command_paths.h"

#include <sys/stat.h>

#include <filesystem>

namespace server {

namespace {

bool exists(const std::string& path) {
    struct stat status;
    return ::stat(path.c_str(), &status) == 0;
}

std::string absolute(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::absolute(path, ignored).lexically_normal().string();
}

std::string as_folder(std::string path) {
    if (path.empty() || path.back() != '/') path += '/';
    return path;
}

// -c, relative to the prefix as in nginx, else to where we are; without it the file that is
// installed, or with a prefix of one's own conf/nginx.conf (conf/server.conf) below it.
std::string conf_path(const std::string& conf, bool prefix_given, const std::string& prefix) {
    if (!conf.empty()) {
        if (conf[0] == '/') return conf;
        bool here = !prefix_given || !exists(prefix + conf);
        return here && exists(conf) ? absolute(conf) : prefix + conf;
    }
    if (!prefix_given) return RESTY_CONF;
    if (!exists(prefix + "conf/nginx.conf") && exists(prefix + "conf/server.conf")) {
        return prefix + "conf/server.conf";
    }
    return prefix + "conf/nginx.conf";
}

// Without -p: the prefix that was installed; for a binary that was not, the folder that holds the
// configuration's "conf" folder, or the configuration itself.
std::string default_prefix(const std::string& conf) {
    if (exists(RESTY_PREFIX) || conf.empty()) return as_folder(RESTY_PREFIX);
    std::filesystem::path folder = std::filesystem::path(absolute(conf)).parent_path();
    if (folder.filename() == "conf") folder = folder.parent_path();
    return as_folder(folder.string());
}

}  // namespace

CommandPaths find_paths(const std::string& prefix, const std::string& conf) {
    CommandPaths paths;
    paths.prefix = prefix.empty() ? default_prefix(conf) : as_folder(absolute(prefix));
    paths.conf = conf_path(conf, !prefix.empty(), paths.prefix);
    return paths;
}

}  // namespace server
