// Log sinks: files (shared by path, reopened on USR1), stderr, memory rings.
#include "core/log_sinks.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/clock.h"
#include "core/text.h"

namespace core {

namespace {

// Tells about a log that cannot be written, at most once a second, on stderr.
void report_failure(const std::string& path, int error) {
    static std::atomic<time_t> last{-1};
    time_t now = Clock::seconds();
    if (last.exchange(now, std::memory_order_relaxed) == now) return;
    LogLine line;
    line.append(Clock::log_date());
    line.format(" [alert] %ld#0: write() to \"%s\" failed", long(::getpid()), path.c_str());
    line.append_error(error);
    line.finish();
    write_to_stderr(line.text());
}

class StderrSink final : public LogSink {
  public:
    void write(Level, Slice line, size_t) override { write_to_stderr(line); }
    int fd() const override { return STDERR_FILENO; }
};

// Which of this process's own streams a path names; -1: none. Nobody moves these away: there is
// nothing to open anew, and a worker might not be allowed to.
int own_stream(const std::string& path) {
    for (int fd : {STDOUT_FILENO, STDERR_FILENO}) {
        std::string number = std::to_string(fd);
        if (path == "/dev/fd/" + number || path == "/proc/self/fd/" + number) return fd;
    }
    if (path == "/dev/stdout") return STDOUT_FILENO;
    return path == "/dev/stderr" ? STDERR_FILENO : -1;
}

class FileSink final : public LogSink {
  public:
    FileSink(std::string path, int fd)
        : path_(std::move(path)), fd_(fd), has_reader_(core::has_reader(fd)) {}
    ~FileSink() override { ::close(fd_); }

    void write(Level, Slice line, size_t) override {
        // A full file system may block a writer for long: it is left alone for a second.
        if (Clock::seconds() == full_at_.load(std::memory_order_relaxed)) return;
        ssize_t written = has_reader_ ? write_unless_full(fd_, line)
                                      : ::write(fd_, line.data(), line.size());
        if (written == ssize_t(line.size())) return;
        int error = written < 0 ? errno : ENOSPC;
        if (error == ENOSPC) full_at_.store(Clock::seconds(), std::memory_order_relaxed);
        report_failure(path_, error);
    }

    // The descriptor keeps its number, so that writers of other threads never see a closed one.
    void reopen() override { reopen_for(uid_t(-1)); }
    void reopen_for(uid_t owner) {
        if (own_stream(path_) >= 0) return;
        int fresh = open_append(path_);
        if (fresh < 0) {
            LOG(process_log(), emerg, errno, "open() \"%s\" failed", path_.c_str());
            return;
        }
        if (owner != uid_t(-1)) hand_over(fresh, owner);
        if (::dup3(fresh, fd_, O_CLOEXEC) < 0) {
            LOG(process_log(), alert, errno, "dup3() \"%s\" failed", path_.c_str());
        }
        ::close(fresh);
        has_reader_ = core::has_reader(fd_);
    }

    int fd() const override { return fd_; }
    bool has_reader() const override { return has_reader_; }
    const std::string& path() const { return path_; }

  private:
    void hand_over(int fd, uid_t owner) {
        struct stat status;
        if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return;
        if (status.st_uid != owner && ::fchown(fd, owner, gid_t(-1)) != 0) {
            LOG(process_log(), emerg, errno, "chown(\"%s\", %d) failed", path_.c_str(),
                int(owner));
        }
        if ((status.st_mode & 0600) != 0600 && ::fchmod(fd, status.st_mode | 0600) != 0) {
            LOG(process_log(), emerg, errno, "chmod() \"%s\" failed", path_.c_str());
        }
    }

    std::string path_;
    int fd_;
    bool has_reader_;
    std::atomic<time_t> full_at_{-1};
};

class SyslogSink final : public LogSink {
  public:
    explicit SyslogSink(std::shared_ptr<Syslog> server) : server_(std::move(server)) {}
    void write(Level level, Slice line, size_t) override {
        line.remove_suffix(1);
        server_->send(std::max(int(level) - 1, 0), line);
    }

  private:
    std::shared_ptr<Syslog> server_;
};

// The newest lines, kept for a debugger or a core dump; it begins with "MEMLOG SIZE\n".
class MemorySink final : public LogSink {
  public:
    explicit MemorySink(size_t bytes) : ring_(bytes, ' ') {
        std::string head = format("MEMLOG %zu\n", bytes);
        std::copy(head.begin(), head.end(), ring_.begin());
        start_ = head.size();
    }
    void write(Level, Slice line, size_t) override {
        size_t room = ring_.size() - start_;
        size_t at = written_.fetch_add(line.size(), std::memory_order_relaxed) % room;
        size_t part = std::min(line.size(), room - at);
        std::memcpy(ring_.data() + start_ + at, line.data(), part);
        std::memcpy(ring_.data() + start_, line.data() + part, line.size() - part);
    }

  private:
    std::vector<char> ring_;
    size_t start_;
    std::atomic<size_t> written_{0};
};

struct FileSinks {
    std::mutex mutex;
    std::vector<std::weak_ptr<FileSink>> all;
};

FileSinks& file_sinks() {
    static FileSinks& sinks = *new FileSinks;
    return sinks;
}

std::shared_ptr<LogSink> open_file_sink(std::string path, LogSinkError& error) {
    FileSinks& sinks = file_sinks();
    std::lock_guard lock(sinks.mutex);
    std::erase_if(sinks.all, [](auto& sink) { return sink.expired(); });
    for (auto& known : sinks.all) {
        if (auto sink = known.lock(); sink && sink->path() == path) return sink;
    }
    int fd = open_append(path);
    if (fd < 0) {
        error = {format("open() \"%s\" failed", path.c_str()), errno};
        return nullptr;
    }
    auto sink = std::make_shared<FileSink>(std::move(path), fd);
    sinks.all.push_back(sink);
    return sink;
}

std::shared_ptr<LogSink> open_memory_sink(Slice text, LogSinkError& error) {
    Slice digits = text;
    size_t unit = 1;
    if (!digits.empty() && !is_digit(digits.back())) {
        unit = lower(digits.back()) == 'k' ? 1024 : lower(digits.back()) == 'm' ? 1024 * 1024 : 0;
        digits.remove_suffix(1);
    }
    auto count = parse_number(digits, 1 << 30);
    // Smaller than this, one long line would not fit.
    size_t least = LogLine::bytes_max + 64;
    size_t bytes = count ? size_t(*count) * unit : 0;
    if (bytes < least || bytes > size_t(1) << 40) {
        error = {format("invalid buffer size \"%.*s\"", int(text.size()), text.data()), 0};
        return nullptr;
    }
    return std::make_shared<MemorySink>(bytes);
}

}  // namespace

bool has_reader(int fd) {
    struct stat is;
    return ::fstat(fd, &is) == 0 && (S_ISFIFO(is.st_mode) || S_ISSOCK(is.st_mode) ||
                                     (S_ISCHR(is.st_mode) && ::isatty(fd)));
}

ssize_t write_unless_full(int fd, Slice text) {
    // A pipe that is writable has room for so much.
    constexpr size_t piece_bytes = 4096;
    size_t done = 0;
    while (done < text.size()) {
        Slice piece = text.substr(done, piece_bytes);
        size_t end = done + piece.size() < text.size() ? piece.rfind('\n') : Slice::npos;
        if (end != Slice::npos) piece = piece.substr(0, end + 1);
        pollfd ready{fd, POLLOUT, 0};
        ssize_t written = -1;
        if (::poll(&ready, 1, 0) == 1) {
            written = ::write(fd, piece.data(), piece.size());
        } else {
            errno = EAGAIN;
        }
        if (written < 0) return done ? ssize_t(done) : written;
        done += size_t(written);
    }
    return ssize_t(done);
}

void write_to_stderr(Slice text) {
    [[maybe_unused]] ssize_t ignored =
        has_reader(STDERR_FILENO) ? write_unless_full(STDERR_FILENO, text)
                                  : ::write(STDERR_FILENO, text.data(), text.size());
}

std::shared_ptr<LogSink> stderr_sink() {
    static auto& sink = *new std::shared_ptr<LogSink>(std::make_shared<StderrSink>());
    return sink;
}

std::shared_ptr<LogSink> open_log_sink(Slice target, const std::string& prefix,
                                       LogSinkError& error) {
    if (target.empty() || target == "stderr") return stderr_sink();
    if (target.starts_with("memory:")) return open_memory_sink(target.substr(7), error);
    if (target.starts_with("syslog:")) {
        auto server = Syslog::open(target.substr(7));
        if (server) return std::make_shared<SyslogSink>(std::move(*server));
        error = {server.take_error().what, 0};
        return nullptr;
    }
    std::string path(target);
    if (path[0] != '/') {
        path = prefix.empty() || prefix.back() == '/' ? prefix + path : prefix + "/" + path;
    }
    return open_file_sink(std::move(path), error);
}

static void (*reopen_hook)() = nullptr;

void before_log_reopen(void (*run)()) { reopen_hook = run; }

void reopen_log_sinks(unsigned owner) {
    if (reopen_hook) reopen_hook();
    std::vector<std::shared_ptr<FileSink>> live;
    {
        FileSinks& sinks = file_sinks();
        std::lock_guard lock(sinks.mutex);
        for (auto& known : sinks.all) {
            if (auto sink = known.lock()) live.push_back(std::move(sink));
        }
    }
    for (auto& sink : live) sink->reopen_for(uid_t(owner));
}

int open_append(const std::string& path) {
    int fd = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (fd >= 0) return fd;
    // A stream that is a socket (a service manager's journal) cannot be opened, but it is there.
    int saved = errno, stream = own_stream(path);
    if (stream >= 0) fd = ::fcntl(stream, F_DUPFD_CLOEXEC, 3);
    if (fd < 0) errno = saved;
    return fd;
}

}  // namespace core
