// Signal handlers and their pipe.
#include "server/signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

#include "core/log.h"
#include "core/process.h"
#include "core/text.h"

namespace server {

namespace {

// ALRM and IO mean nothing here, but would end the process.
constexpr int handled[] = {SIGHUP,  SIGUSR1, SIGUSR2, SIGWINCH, SIGQUIT,
                           SIGTERM, SIGINT,  SIGCHLD, SIGALRM,  SIGIO};

int pipe_ends[2] = {-1, -1};
volatile sig_atomic_t came[NSIG];
volatile sig_atomic_t sender[NSIG];

void on_signal(int number, siginfo_t* info, void*) {
    int saved = errno;
    came[number] = 1;
    if (info) sender[number] = info->si_pid;
    [[maybe_unused]] ssize_t ignored = ::write(pipe_ends[1], "", 1);   // full: it will wake anyway
    errno = saved;
}

bool make_pipe() {
    for (int& end : pipe_ends) {
        if (end >= 0) ::close(end);
        end = -1;
    }
    if (::pipe(pipe_ends) != 0) return false;
    for (int end : pipe_ends) {
        ::fcntl(end, F_SETFL, O_NONBLOCK);
        ::fcntl(end, F_SETFD, FD_CLOEXEC);
    }
    return true;
}

void install(int number) {
    struct sigaction action = {};
    ::sigemptyset(&action.sa_mask);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    ::sigaction(number, &action, nullptr);
}

sigset_t handled_set() {
    sigset_t set;
    ::sigemptyset(&set);
    for (int number : handled) ::sigaddset(&set, number);
    return set;
}

bool take(int number, pid_t* from = nullptr) {
    if (!came[number]) return false;
    came[number] = 0;
    if (from) *from = pid_t(sender[number]);
    return true;
}

}  // namespace

core::Result<void> open_signals() {
    for (int number : handled) came[number] = 0;
    if (!make_pipe()) {
        return core::Error{core::format("pipe() failed (%d: %s)", errno, core::error_name(errno))};
    }
    for (int number : handled) install(number);
    core::ignore_write_signals();
    unblock_signals();
    return {};
}

int signal_fd() { return pipe_ends[0]; }

Signals take_signals() {
    char bytes[64];
    while (::read(pipe_ends[0], bytes, sizeof bytes) > 0) {}
    Signals signals;
    signals.hup = take(SIGHUP, &signals.hup_from);
    signals.usr1 = take(SIGUSR1);
    signals.usr2 = take(SIGUSR2);
    signals.winch = take(SIGWINCH, &signals.winch_from);
    signals.quit = take(SIGQUIT, &signals.quit_from);
    signals.term = take(SIGTERM, &signals.term_from);
    signals.interrupt = take(SIGINT, &signals.term_from);
    signals.child = take(SIGCHLD);
    return signals;
}

void hold_request_signals() {
    sigset_t set;
    sigemptyset(&set);
    for (int number : {SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH}) sigaddset(&set, number);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

void block_signals() {
    sigset_t set = handled_set();
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

void unblock_signals() {
    sigset_t set = handled_set();
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
}

}  // namespace server
