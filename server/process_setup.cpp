// Applies MainConf to this process: see the header.
#include "server/process_setup.h"

#include <unistd.h>

#include <cerrno>

#include "core/log.h"
#include "core/process.h"
#include "core/text.h"
#include "server/main_conf.h"
#include "server/worker.h"

namespace server {

namespace {

ProcessType own_type = ProcessType::single;
pid_t own_master = 0;

// What a worker can do without: told, not fatal.
void try_to(core::Result<void> result) {
    if (!result) LOG(core::process_log(), alert, 0, "%s", result.error().what.c_str());
}

bool changes_user(const MainConf& conf) { return ::geteuid() == 0 && !conf.user.empty(); }

std::string find_program(const std::string& name) {
    if (name.starts_with('/')) return name;
    char room[4096];
    if (name.find('/') != std::string::npos && ::getcwd(room, sizeof room)) {
        return std::string(room) + "/" + name;
    }
    ssize_t size = ::readlink("/proc/self/exe", room, sizeof room);
    return size > 0 ? std::string(room, size_t(size)) : name;
}

}  // namespace

ProcessType process_type() { return own_type; }
pid_t master_pid() { return own_master ? own_master : ::getpid(); }
void set_process_type(ProcessType type) { own_type = type; }
void set_master_pid(pid_t pid) { own_master = pid; }

core::Result<void> become_worker(const MainConf& conf, int id) {
    core::set_environment(conf.env);
    if (id >= 0 && conf.worker_priority.value != 0) {
        try_to(core::set_priority(int(conf.worker_priority.value)));
    }
    if (conf.rlimit_nofile >= 0) try_to(core::limit_open_files(conf.rlimit_nofile));
    if (conf.rlimit_core >= 0) try_to(core::limit_core_size(conf.rlimit_core));
    if (id >= 0 && changes_user(conf)) {
        auto identity = core::find_identity(conf.user, conf.group);
        if (!identity) return identity.take_error();
        auto changed = core::become(*identity);
        if (!changed) return changed;
    }
    auto mask = cpu_mask_of(conf, id, core::processors_online());
    if (!mask.empty()) try_to(core::bind_to_processors(mask));
    const std::string& folder = conf.working_directory.value;
    if (folder.empty() || ::chdir(folder.c_str()) == 0) return {};
    return core::Error{core::format("chdir(\"%s\") failed (%d: %s)", folder.c_str(), errno,
                                    core::error_name(errno))};
}

uid_t worker_user(const MainConf& conf) {
    if (!changes_user(conf)) return uid_t(-1);
    auto identity = core::find_identity(conf.user, conf.group);
    return identity ? identity->uid : uid_t(-1);
}

std::string command_text() {
    std::string text;
    for (const std::string& argument : core::original_arguments()) {
        text += (text.empty() ? "" : " ") + argument;
    }
    return text;
}

const std::string& program_path() {
    static const std::string& path =
        *new std::string(find_program(core::original_arguments().front()));
    return path;
}

void remove_pid(const std::string& path) {
    auto removed = core::remove_pid_file(path);
    if (!removed) LOG(core::process_log(), alert, 0, "%s", removed.error().what.c_str());
}

}  // namespace server
