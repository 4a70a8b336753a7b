// proxy_store: a complete response becomes a file.
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include "server/http/core_conf.h"
#include "server/upstream/session.h"

namespace server {

namespace {

// Folders on the way to a file.
void make_folders(const std::string& path) {
    for (size_t slash = path.find('/', 1); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
        ::mkdir(path.substr(0, slash).c_str(), 0700);
    }
}

bool copy_file(int from, const std::string& to) {
    FILE* file = std::fopen(to.c_str(), "wb");
    if (!file) return false;
    char buffer[64 * 1024];
    int64_t at = 0;
    bool good = true;
    for (;;) {
        ssize_t n = ::pread(from, buffer, sizeof buffer, at);
        if (n <= 0) {
            good = n == 0;
            break;
        }
        if (std::fwrite(buffer, 1, size_t(n), file) != size_t(n)) {
            good = false;
            break;
        }
        at += n;
    }
    return std::fclose(file) == 0 && good;
}

}  // namespace

void UpstreamSession::store_response() {
    if (!relay_.open_file()) return;
    const StorePath& store = *settings_.store;
    core::Slice named = store.path.empty() ? file_path(request_, request_.uri)
                                           : store.path.evaluate(request_);
    if (named.empty()) return;
    std::string path(named);
    if (path[0] != '/') path = Configuration::current().options().prefix + path;
    std::string temporary(relay_.file_path());
    ::fchmod(relay_.file_fd(), settings_.store_access->mode);
    if (int64_t modified = request_.response.last_modified; modified >= 0) {
        timespec times[2] = {{modified, 0}, {modified, 0}};
        ::futimens(relay_.file_fd(), times);
    }
    if (::rename(temporary.c_str(), path.c_str()) == 0) return;
    if (errno == ENOENT) {
        make_folders(path);
        if (::rename(temporary.c_str(), path.c_str()) == 0) return;
    }
    // Another file system: a copy beside the target, then renamed.
    std::string beside = path + ".new";
    if (errno == EXDEV && copy_file(relay_.file_fd(), beside)) {
        ::chmod(beside.c_str(), settings_.store_access->mode);
        if (::rename(beside.c_str(), path.c_str()) == 0) return;
    }
    LOG(request_.log, crit, errno, "rename() \"%s\" to \"%s\" failed", temporary.c_str(),
        path.c_str());
}

}  // namespace server
