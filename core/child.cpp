// Child processes: see the header. Between fork and exec only what is safe in a process whose other
// threads are gone: system calls, and at the very end a log line.
#include "core/child.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <vector>

#include "core/log.h"
#include "core/process.h"
#include "core/text.h"

#ifndef __linux__
extern char** environ;
#endif

namespace core {

namespace {

constexpr int first_fd_to_close = 3;

List<Child>& children() {
    static auto& list = *new List<Child>;
    return list;
}

// Running children whose object is gone.
std::vector<pid_t>& orphans() {
    static auto& list = *new std::vector<pid_t>;
    return list;
}

struct PipePair {
    Fd read, write;
};

Result<PipePair> open_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return Error{format("pipe failed: %s", error_name(errno))};
    }
    return PipePair{Fd(ends[0]), Fd(ends[1])};
}

struct Pipes {
    PipePair input, output, error;
};

Result<Pipes> open_pipes(bool with_error) {
    Pipes pipes;
    for (PipePair* pair : {&pipes.input, &pipes.output, &pipes.error}) {
        if (pair == &pipes.error && !with_error) continue;
        auto made = open_pipe();
        if (!made) return made.take_error();
        *pair = std::move(*made);
    }
    return pipes;
}

// Our descriptors end with exec, whoever opened them and how.
void close_others_on_exec() {
#ifdef CLOSE_RANGE_CLOEXEC
    if (::close_range(first_fd_to_close, ~0u, CLOSE_RANGE_CLOEXEC) == 0) return;
#endif
    int64_t limit = std::min<int64_t>(open_files_limit(), 65536);
    for (int fd = first_fd_to_close; fd < limit; ++fd) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
}

// What a program expects to find: nothing handled, nothing of ours ignored, nothing blocked.
void reset_signals() {
    for (int number = 1; number < NSIG; ++number) {
        struct sigaction action;
        if (::sigaction(number, nullptr, &action) != 0) continue;
        bool ours = number == SIGPIPE || number == SIGXFSZ || number == SIGSYS;
        if (action.sa_handler != SIG_IGN || ours) std::signal(number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// Handlers of this process must not take in the child what is meant for the program.
pid_t fork_with_signals_held() {
    sigset_t all, before;
    sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = ::fork();
    if (pid != 0) ::sigprocmask(SIG_SETMASK, &before, nullptr);
    return pid;
}

void execute(const Child::Options& options) {
    auto* arguments = const_cast<char* const*>(options.arguments);
    if (!options.environment) {
        ::execvp(options.file, arguments);
        return;
    }
#ifdef __linux__
    ::execvpe(options.file, arguments, const_cast<char* const*>(options.environment));
#else
    environ = const_cast<char**>(options.environment);
    ::execvp(options.file, arguments);
#endif
}

// Below 3 are only the standard streams: a pipe end that sits there (they were closed) would be
// overwritten by dup2 before its turn.
int above_streams(int fd) {
    return fd < first_fd_to_close ? ::fcntl(fd, F_DUPFD_CLOEXEC, first_fd_to_close) : fd;
}

[[noreturn]] void run(const Child::Options& options, const Pipes& pipes) {
    unbind_from_processors();
    reset_signals();
    int input = above_streams(pipes.input.read.get());
    int output = above_streams(pipes.output.write.get());
    int error = options.merge_stderr ? output : above_streams(pipes.error.write.get());
    int old_error = ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, first_fd_to_close);
    if (::dup2(input, STDIN_FILENO) < 0 || ::dup2(output, STDOUT_FILENO) < 0 ||
        ::dup2(error, STDERR_FILENO) < 0) {
        LOG(process_log(), error, errno, "lua pipe child dup2 failed");
        ::_exit(EXIT_FAILURE);
    }
    close_others_on_exec();
    execute(options);
    int failure = errno;
    if (old_error >= 0) ::dup2(old_error, STDERR_FILENO);    // an error log may be there
    LOG(process_log(), error, failure, "lua pipe child %s() failed while executing %s",
        options.environment ? "execvpe" : "execvp", options.file);
    ::_exit(EXIT_FAILURE);
}

}  // namespace

Result<void> Child::start(const Options& options) {
    auto pipes = open_pipes(!options.merge_stderr);
    if (!pipes) return pipes.take_error();
    pid_t pid = fork_with_signals_held();
    if (pid < 0) return Error{format("fork failed: %s", error_name(errno))};
    if (pid == 0) run(options, *pipes);
    pid_ = pid;
    input = std::move(pipes->input.write);
    output = std::move(pipes->output.read);
    error = std::move(pipes->error.read);
    for (const Fd* fd : {&input, &output, &error}) {
        if (fd->valid()) ::fcntl(fd->get(), F_SETFL, O_NONBLOCK);
    }
    children().push_back(*this);
    return {};
}

Child::~Child() {
    if (running()) orphans().push_back(pid_);
}

void Child::set_end(int wait_status) {
    if (WIFSIGNALED(wait_status)) {
        end_ = End::signalled;
        status_ = WTERMSIG(wait_status);
    } else if (WIFEXITED(wait_status)) {
        end_ = End::exited;
        status_ = WEXITSTATUS(wait_status);
    } else {
        end_ = End::unknown;
        status_ = wait_status;
        LOG(process_log(), error, 0, "lua pipe unknown exit status %d from process %d",
            wait_status, int(pid_));
    }
}

namespace {

// Has it ended? Somebody else may have waited for it: then nobody knows how (status -1).
bool ended(pid_t pid, int& status) {
    pid_t got;
    while ((got = ::waitpid(pid, &status, WNOHANG)) < 0 && errno == EINTR) {}
    if (got == 0) return false;
    if (got < 0) {
        status = -1;
        return true;
    }
    LOG(process_log(), notice, 0, "signal %d (SIGCHLD) received from %d", SIGCHLD, int(pid));
    return true;
}

}  // namespace

void bury_children() {
    int status;
    std::erase_if(orphans(), [&](pid_t pid) { return ended(pid, status); });
    List<Child> dead;
    children().each([&](Child& child) {
        if (!ended(child.pid_, status)) return;
        child.set_end(status);
        dead.push_back(child);
    });
    while (Child* child = dead.pop_front()) child->ended_(child->argument_);
}

}  // namespace core
