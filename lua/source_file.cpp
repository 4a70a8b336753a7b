// Reading source files; see source_file.h.
#include "lua/source_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/socket.h"
#include "core/text.h"

namespace lua {

namespace {

constexpr int64_t source_bytes_max = 64 << 20;

int64_t nanoseconds(const struct timespec& time) {
    return int64_t(time.tv_sec) * 1000000000 + time.tv_nsec;
}

// Where the open file really is, whatever happens to its path meanwhile.
std::string path_of(int fd, [[maybe_unused]] const std::string& opened_as) {
#if defined(__linux__)
    char link[32], path[PATH_MAX];
    std::snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = ::readlink(link, path, sizeof path);
    return size > 0 ? std::string(path, size_t(size)) : std::string();
#elif defined(F_GETPATH)
    char path[PATH_MAX];
    return ::fcntl(fd, F_GETPATH, path) == 0 ? std::string(path) : std::string();
#else
    return real_path(opened_as);
#endif
}

bool read_all(int fd, std::string& text) {
    char room[16384];
    for (;;) {
        ssize_t count = ::read(fd, room, sizeof room);
        if (count == 0) return true;
        if (count < 0) {
            if (errno == EINTR) continue;
            return false;
        }
        text.append(room, size_t(count));
    }
}

}  // namespace

FileStamp FileStamp::of(const struct stat& is) {
#if defined(__APPLE__)
    return {uint64_t(is.st_dev), uint64_t(is.st_ino), int64_t(is.st_size),
            nanoseconds(is.st_mtimespec), nanoseconds(is.st_ctimespec)};
#else
    return {uint64_t(is.st_dev), uint64_t(is.st_ino), int64_t(is.st_size),
            nanoseconds(is.st_mtim), nanoseconds(is.st_ctim)};
#endif
}

FileStamp FileStamp::of(const std::string& path) {
    struct stat is;
    return ::stat(path.c_str(), &is) == 0 ? of(is) : FileStamp{};
}

SourceText read_source(const std::string& path, const std::string& inside) {
    SourceText source;
    auto failed = [&](const char* why) {
        source.error = "cannot open " + path + ": " + why;
        return std::move(source);
    };
    core::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.valid()) {
        source.missing = errno == ENOENT;
        return failed(std::strerror(errno));
    }
    struct stat is;
    if (::fstat(fd.get(), &is) != 0) return failed(std::strerror(errno));
    if (!S_ISREG(is.st_mode)) return failed("not a regular file");
    if (is.st_size > source_bytes_max) return failed("too large");
    if (!inside.empty() && !path_of(fd.get(), path).starts_with(inside))
        return failed("outside of its folder");
    source.stamp = FileStamp::of(is);
    source.text.reserve(size_t(is.st_size));
    if (!read_all(fd.get(), source.text)) return failed(std::strerror(errno));
    return source;
}

std::string real_path(const std::string& path) {
    char* found = ::realpath(path.c_str(), nullptr);
    if (!found) return {};
    std::string real(found);
    std::free(found);
    return real;
}

int line_in(core::Slice message) {
    for (size_t at = message.find(':'); at != core::Slice::npos; at = message.find(':', at + 1)) {
        size_t end = at + 1;
        while (end < message.size() && core::is_digit(message[end])) ++end;
        if (end == at + 1 || end - at > 8 || end == message.size() || message[end] != ':') continue;
        return int(*core::parse_number(message.substr(at + 1, end - at - 1)));
    }
    return 0;
}

}  // namespace lua
