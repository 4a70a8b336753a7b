// Processes: background, pid files, privileges, limits. Titles and the environment are in
// core/process_title.cpp, channels in core/channel.cpp.
#include "core/process.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/log.h"
#include "core/text.h"

#ifdef __linux__
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

#ifdef RESTY_COUNTS_PROFILE
extern "C" void __gcov_dump();
#endif

namespace core {

namespace {

Fd ready_pipe;   // the daemon's end; closed by death, written to by daemon_ready()

#ifdef __linux__
cpu_set_t processors_at_first;   // before bind_to_processors(); empty: that was not called
#endif

Error failed(const std::string& call) {
    int error = errno;
    Error result{format("%s failed (%d: %s)", call.c_str(), error, error_name(error))};
    errno = error;
    return result;
}

std::string quoted(const char* call, const std::string& path) {
    return format("%s \"%s\"", call, path.c_str());
}

// The process that was started: waits for the daemon's word.
[[noreturn]] void wait_for_daemon(int fd) {
    char word = 0;
    ssize_t got;
    while ((got = ::read(fd, &word, 1)) < 0 && errno == EINTR) {}
    ::_exit(got == 1 ? 0 : 1);
}

}  // namespace

Result<void> daemonize() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return failed("pipe()");
    pid_t child = ::fork();
    if (child < 0) return failed("fork()");
    if (child > 0) {
        ::close(ends[1]);
        wait_for_daemon(ends[0]);
    }
    ::close(ends[0]);
    ready_pipe.reset(ends[1]);
    if (::setsid() < 0) return failed("setsid()");
    ::umask(0);
    Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    if (!null.valid()) return failed("open(\"/dev/null\")");
    if (::dup2(null.get(), STDIN_FILENO) < 0) return failed("dup2(STDIN)");
    if (::dup2(null.get(), STDOUT_FILENO) < 0) return failed("dup2(STDOUT)");
    if (null.get() <= STDERR_FILENO) (void)null.release();
    return {};
}

void daemon_ready() {
    if (!ready_pipe.valid()) return;
    [[maybe_unused]] ssize_t ignored = ::write(ready_pipe.get(), "1", 1);
    ready_pipe.reset();
}

Result<void> redirect_stderr(int fd) {
    if (fd == STDERR_FILENO || ::dup2(fd, STDERR_FILENO) >= 0) return {};
    return failed("dup2(STDERR)");
}

Result<void> write_pid_file(const std::string& path, pid_t pid) {
    Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd.valid()) return failed(quoted("open()", path));
    std::string text = std::to_string(pid) + "\n";
    if (::write(fd.get(), text.data(), text.size()) != ssize_t(text.size())) {
        return failed(quoted("write()", path));
    }
    return {};
}

Result<pid_t> read_pid_file(const std::string& path) {
    Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) return failed(quoted("open()", path));
    char room[32];
    ssize_t got = ::read(fd.get(), room, sizeof room);
    if (got < 0) return failed(quoted("read()", path));
    Slice text(room, size_t(got));
    while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.remove_suffix(1);
    auto pid = parse_number(text, INT32_MAX);
    if (pid && *pid > 0) return pid_t(*pid);
    return Error{format("invalid PID number \"%.*s\" in \"%s\"", int(text.size()), text.data(),
                        path.c_str())};
}

Result<void> remove_pid_file(const std::string& path) {
    if (::unlink(path.c_str()) == 0) return {};
    return failed(quoted("unlink()", path));
}

Result<Identity> find_identity(const std::string& user, const std::string& group) {
    errno = 0;
    passwd* entry = ::getpwnam(user.c_str());
    if (!entry) return failed("getpwnam(\"" + user + "\")");
    Identity identity{user, entry->pw_uid, entry->pw_gid};
    const std::string& group_name = group.empty() ? user : group;
    errno = 0;
    struct group* found = ::getgrnam(group_name.c_str());
    if (!found) return failed("getgrnam(\"" + group_name + "\")");
    identity.gid = found->gr_gid;
    return identity;
}

Result<void> become(const Identity& identity, bool keep_transparent) {
    if (::setgid(identity.gid) != 0) return failed(format("setgid(%d)", int(identity.gid)));
    if (::initgroups(identity.user.c_str(), identity.gid) != 0) {
        return failed(format("initgroups(%s, %d)", identity.user.c_str(), int(identity.gid)));
    }
#ifdef __linux__
    bool keep = keep_transparent && identity.uid != 0;
    if (keep && ::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) {
        return failed("prctl(PR_SET_KEEPCAPS, 1)");
    }
#endif
    if (::setuid(identity.uid) != 0) return failed(format("setuid(%d)", int(identity.uid)));
#ifdef __linux__
    if (keep) {
        __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
        __user_cap_data_struct data[2]{};
        data[0].effective = data[0].permitted = 1u << CAP_NET_RAW;
        if (::syscall(SYS_capset, &header, data) != 0) return failed("capset()");
    }
    // A change of user forbids core dumps.
    if (::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) return failed("prctl(PR_SET_DUMPABLE)");
#else
    (void)keep_transparent;
#endif
    return {};
}

Result<void> limit_open_files(int64_t count) {
    rlimit limit{rlim_t(count), rlim_t(count)};
    if (::setrlimit(RLIMIT_NOFILE, &limit) == 0) return {};
    return failed(format("setrlimit(RLIMIT_NOFILE, %lld)", static_cast<long long>(count)));
}

Result<void> limit_core_size(int64_t bytes) {
    rlimit limit{rlim_t(bytes), rlim_t(bytes)};
    if (::setrlimit(RLIMIT_CORE, &limit) == 0) return {};
    return failed(format("setrlimit(RLIMIT_CORE, %lld)", static_cast<long long>(bytes)));
}

int64_t open_files_limit() {
    rlimit limit;
    bool known = ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    return known ? int64_t(limit.rlim_cur) : INT64_MAX;
}

Result<void> set_priority(int priority) {
    if (::setpriority(PRIO_PROCESS, 0, priority) == 0) return {};
    return failed(format("setpriority(%d)", priority));
}

Result<void> bind_to_processors(const std::vector<bool>& mask) {
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    int online = processors_online();
    for (size_t i = 0; i < mask.size() && int(i) < online && i < CPU_SETSIZE; ++i) {
        if (mask[i]) CPU_SET(i, &set);
    }
    if (!CPU_COUNT(&set)) return {};
    if (!CPU_COUNT(&processors_at_first)) {
        ::sched_getaffinity(0, sizeof processors_at_first, &processors_at_first);
    }
    if (::sched_setaffinity(0, sizeof set, &set) != 0) return failed("sched_setaffinity()");
#else
    (void)mask;
#endif
    return {};
}

void unbind_from_processors() {
#ifdef __linux__
    if (CPU_COUNT(&processors_at_first)) {
        ::sched_setaffinity(0, sizeof processors_at_first, &processors_at_first);
    }
#endif
}

int processors_online() {
    long count = ::sysconf(_SC_NPROCESSORS_ONLN);
    return count > 0 ? int(count) : 1;
}

void ignore_write_signals() {
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
}

void let_signals_interrupt() {
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction action;
        if (::sigaction(number, nullptr, &action) != 0 || !(action.sa_flags & SA_RESTART)) continue;
        action.sa_flags &= ~SA_RESTART;
        ::sigaction(number, &action, nullptr);
    }
}

bool signal_on_parent_death(int signal, pid_t parent) {
#ifdef __linux__
    ::prctl(PR_SET_PDEATHSIG, signal, 0, 0, 0);
#else
    (void)signal;
#endif
    return ::getppid() != parent;   // it may have died before we asked
}

void leave_process(int code) {
    std::fflush(nullptr);
#ifdef RESTY_COUNTS_PROFILE
    __gcov_dump();
#endif
    ::_exit(code);
}

}  // namespace core
