// The change of the binary (USR2): a new master takes over the listening sockets while this one
// goes on; whoever watches then tells one of the two to quit.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "core/log.h"
#include "core/process.h"
#include "server/master.h"
#include "server/process_setup.h"

namespace server {

void Master::upgrade() {
    bool old_one_runs = process_.sockets.inherited() && ::getppid() == process_.parent;
    if (new_binary_ || old_one_runs) {
        LOG(core::process_log(), notice, 0,
            "the changing binary signal is ignored: you should shutdown or terminate before either "
            "old or new binary's process");
        return;
    }
    LOG(core::process_log(), notice, 0, "changing binary");
    if (::rename(process_.pid_path.c_str(), old_pid_path().c_str()) != 0) {
        LOG(core::process_log(), alert, errno,
            "rename() %s to %s failed before executing new binary process \"%s\"",
            process_.pid_path.c_str(), old_pid_path().c_str(), program_path().c_str());
        return;
    }
    block_signals();
    pid_t pid = ::fork();
    if (pid == 0) run_new_binary();
    int error = errno;
    unblock_signals();
    if (pid > 0) {
        new_binary_ = pid;
        LOG(core::process_log(), notice, 0, "start new binary process %d", int(pid));
        return;
    }
    LOG(core::process_log(), alert, error, "fork() failed while spawning \"new binary process\"");
    new_binary_ended();
}

void Master::run_new_binary() {
    for (int fd : process_.sockets.descriptors()) ::fcntl(fd, F_SETFD, 0);
    ::setenv("NGINX", process_.sockets.list().c_str(), 1);
    process_.control.pass_on();
    unblock_signals();
    std::vector<char*> arguments;
    for (const std::string& argument : core::original_arguments()) {
        arguments.push_back(const_cast<char*>(argument.c_str()));
    }
    arguments.push_back(nullptr);
    ::execv(program_path().c_str(), arguments.data());
    LOG(core::process_log(), alert, errno,
        "execve() failed while executing new binary process \"%s\"", program_path().c_str());
    ::_exit(1);
}

// The attempt is over: this master is the only one again.
void Master::new_binary_ended() {
    new_binary_ = 0;
    process_.control.reclaim_files();
    if (::rename(old_pid_path().c_str(), process_.pid_path.c_str()) != 0) {
        LOG(core::process_log(), alert, errno,
            "rename() %s back to %s failed after the new binary process \"%s\" exited",
            old_pid_path().c_str(), process_.pid_path.c_str(), program_path().c_str());
    }
    if (no_accepting_ && state_ == State::running) {
        no_accepting_ = false;
        start_workers();
    }
}

}  // namespace server
