// What a process does to itself: titles, the background, limits, processors, privileges, its
// environment, pid files, and telling the service manager. Used by main, the master and workers.
#pragma once

#include <sys/types.h>

#include <string>

#include "core/result.h"

namespace server {

struct MainConf;

// Keeps the original arguments and environment, which titles then overwrite.
void init_title(int argc, char** argv);
void set_title(const std::string& title);              // "worker process": "nginx: worker process"
const std::string& command_text();                     // the original command line
char** original_arguments();
// The program's own file as an absolute path: for a binary upgrade.
const std::string& program_path();

core::Result<void> daemonize();

// Only what `env` directives name stays, and TZ.
void restrict_environment(const MainConf& conf);
// Priority, resource limits, user, processors, working directory: a worker's, in this order.
core::Result<void> become_worker(const MainConf& conf, int id);
// The uid of `user`, or -1 when this process keeps its own.
uid_t worker_user(const MainConf& conf);

core::Result<void> write_pid_file(const std::string& path);
// For -t: whether it could be written.
core::Result<void> test_pid_file(const std::string& path);
void remove_file(const std::string& path);

// systemd's notification socket; does nothing without one.
void notify_manager(const char* state);

}  // namespace server
