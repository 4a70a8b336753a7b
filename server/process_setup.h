// What the settings of the main level mean for a process of its own. Used by main, the master and
// workers; the system calls themselves are in core/process.h.
#pragma once

#include <sys/types.h>

#include <string>

#include "core/result.h"

namespace server {

struct MainConf;

enum class ProcessType : uint8_t;
// What process_type() and master_pid() (worker.h) say from now on.
void set_process_type(ProcessType type);
void set_master_pid(pid_t pid);

// Environment, priority, resource limits, user, processors, working directory: a worker's. A
// privileged agent (id -1) keeps priority and user.
core::Result<void> become_worker(const MainConf& conf, int id);
// The uid workers run under, or -1 when they keep this process's.
uid_t worker_user(const MainConf& conf);

// The command line as it was given, and the program's own file as an absolute path (found at the
// start: before anyone changes the working folder or the file).
std::string command_text();
const std::string& program_path();

// As core::remove_pid_file, a failure being logged.
void remove_pid(const std::string& path);

}  // namespace server
