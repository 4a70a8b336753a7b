// Self-management of processes: see the header.
#include "server/process_setup.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/log.h"
#include "core/socket.h"
#include "core/text.h"
#include "server/main_conf.h"

extern char** environ;

namespace server {

namespace {

struct Title {
    char* room = nullptr;            // the kernel's memory of the arguments and environment
    size_t size = 0;
    std::vector<std::string> arguments;
    std::vector<char*> argument_pointers;
    std::string command;
    std::string program;
};
Title& title_state() {
    static Title& state = *new Title;
    return state;
}

core::Error failed(const char* call) {
    return core::Error{
        core::format("%s failed (%d: %s)", call, errno, core::error_name(errno))};
}

std::string find_program(const char* name) {
    if (name[0] == '/') return name;
    char room[4096];
    if (std::strchr(name, '/') && ::getcwd(room, sizeof room)) {
        return std::string(room) + "/" + name;
    }
    ssize_t size = ::readlink("/proc/self/exe", room, sizeof room);
    return size > 0 ? std::string(room, size_t(size)) : std::string(name);
}

// Titles may grow over the environment, which lives on elsewhere then.
void move_environment(char*& end) {
    size_t count = 0;
    while (environ[count]) ++count;
    char** moved = static_cast<char**>(std::malloc((count + 1) * sizeof(char*)));
    for (size_t i = 0; i < count; ++i) {
        if (environ[i] == end) end += std::strlen(environ[i]) + 1;
        moved[i] = ::strdup(environ[i]);
    }
    moved[count] = nullptr;
    environ = moved;
}

core::Result<void> set_limit(int resource, int64_t value, const char* name) {
    if (value < 0) return {};
    rlimit limit{rlim_t(value), rlim_t(value)};
    if (::setrlimit(decltype(RLIMIT_CORE)(resource), &limit) == 0) return {};
    // Not fatal in nginx either: the worker serves with what it has.
    LOG(core::process_log(), alert, errno, "setrlimit(%s, %lld) failed", name,
        static_cast<long long>(value));
    return {};
}

core::Result<void> change_user(const MainConf& conf) {
    if (::geteuid() != 0 || conf.user.empty()) return {};
    const passwd* user = ::getpwnam(conf.user.c_str());
    const group* group = ::getgrnam(conf.group.c_str());
    if (!user) return failed(("getpwnam(\"" + conf.user + "\")").c_str());
    if (!group) return failed(("getgrnam(\"" + conf.group + "\")").c_str());
    uid_t uid = user->pw_uid;
    if (uid == 0 && group->gr_gid == ::getegid()) return {};
    if (::setgid(group->gr_gid) != 0) return failed("setgid()");
    if (::initgroups(conf.user.c_str(), group->gr_gid) != 0) return failed("initgroups()");
    if (::setuid(uid) != 0) return failed("setuid()");
    return {};
}

void bind_to_processors(const MainConf& conf, int id) {
#ifdef __linux__
    std::vector<bool> mask = cpu_mask_of(conf, id, int(::sysconf(_SC_NPROCESSORS_CONF)));
    if (mask.empty()) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t i = 0; i < mask.size() && i < CPU_SETSIZE; ++i) {
        if (mask[i]) CPU_SET(i, &set);
    }
    if (::sched_setaffinity(0, sizeof set, &set) != 0) {
        LOG(core::process_log(), alert, errno, "sched_setaffinity() failed");
    }
#else
    (void)conf, (void)id;
#endif
}

}  // namespace

void init_title(int argc, char** argv) {
    Title& state = title_state();
    char* end = argv[0];
    for (int i = 0; i < argc; ++i) {
        state.arguments.push_back(argv[i]);
        if (argv[i] == end) end += std::strlen(argv[i]) + 1;
        state.command += (i ? " " : "") + state.arguments.back();
    }
    for (std::string& argument : state.arguments) state.argument_pointers.push_back(argument.data());
    state.argument_pointers.push_back(nullptr);
    state.program = find_program(argv[0]);
    move_environment(end);
    state.room = argv[0];
    state.size = size_t(end - argv[0]);
    argv[1] = nullptr;
}

void set_title(const std::string& title) {
    Title& state = title_state();
    if (!state.room || state.size == 0) return;
    std::string text = "nginx: " + title;
    size_t size = std::min(text.size(), state.size - 1);
    std::memcpy(state.room, text.data(), size);
    std::memset(state.room + size, 0, state.size - size);
}

const std::string& command_text() { return title_state().command; }
char** original_arguments() { return title_state().argument_pointers.data(); }
const std::string& program_path() { return title_state().program; }

core::Result<void> daemonize() {
    pid_t child = ::fork();
    if (child < 0) return failed("fork()");
    if (child > 0) ::_exit(0);
    if (::setsid() < 0) return failed("setsid()");
    ::umask(0);
    int null = ::open("/dev/null", O_RDWR);
    if (null < 0) return failed("open(\"/dev/null\")");
    // Standard error stays, as in nginx: a log may be written there.
    ::dup2(null, STDIN_FILENO);
    ::dup2(null, STDOUT_FILENO);
    if (null > STDERR_FILENO) ::close(null);
    return {};
}

void restrict_environment(const MainConf& conf) {
    std::vector<std::pair<std::string, std::string>> kept;
    auto keep = [&](const std::string& entry) {
        size_t equals = entry.find('=');
        if (equals != std::string::npos) {
            kept.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
        } else if (const char* value = std::getenv(entry.c_str())) {
            kept.emplace_back(entry, value);
        }
    };
    keep("TZ");
    for (const std::string& entry : conf.env) keep(entry);
    ::clearenv();
    for (auto& [name, value] : kept) ::setenv(name.c_str(), value.c_str(), 1);
}

core::Result<void> become_worker(const MainConf& conf, int id) {
    if (id >= 0 && conf.worker_priority.value != 0 &&
        ::setpriority(PRIO_PROCESS, 0, int(conf.worker_priority.value)) != 0) {
        LOG(core::process_log(), alert, errno, "setpriority(%d) failed",
            int(conf.worker_priority.value));
    }
    auto limited = set_limit(RLIMIT_NOFILE, conf.rlimit_nofile, "RLIMIT_NOFILE");
    if (limited) limited = set_limit(RLIMIT_CORE, conf.rlimit_core, "RLIMIT_CORE");
    if (!limited) return limited;
    auto changed = change_user(conf);
    if (!changed) return changed;
    bind_to_processors(conf, id);
#ifdef __linux__
    ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);      // core files also after a change of user
#endif
    const std::string& folder = conf.working_directory.value;
    if (!folder.empty() && ::chdir(folder.c_str()) != 0) {
        return failed(("chdir(\"" + folder + "\")").c_str());
    }
    return {};
}

uid_t worker_user(const MainConf& conf) {
    if (::geteuid() != 0 || conf.user.empty()) return uid_t(-1);
    const passwd* user = ::getpwnam(conf.user.c_str());
    return user ? user->pw_uid : uid_t(-1);
}

core::Result<void> write_pid_file(const std::string& path) {
    core::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd.valid()) return failed(("open() \"" + path + "\"").c_str());
    std::string text = std::to_string(::getpid()) + "\n";
    if (::write(fd.get(), text.data(), text.size()) != ssize_t(text.size())) {
        return failed(("write() to \"" + path + "\"").c_str());
    }
    return {};
}

core::Result<void> test_pid_file(const std::string& path) {
    core::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (!fd.valid()) return failed(("open() \"" + path + "\"").c_str());
    return {};
}

void remove_file(const std::string& path) {
    if (::unlink(path.c_str()) != 0) {
        LOG(core::process_log(), alert, errno, "unlink() \"%s\" failed", path.c_str());
    }
}

void notify_manager(const char* state) {
    static const std::string& path = *new std::string([] {
        const char* given = std::getenv("NOTIFY_SOCKET");
        return std::string(given ? given : "");
    }());
    sockaddr_un to = {};
    if (path.size() < 2 || path.size() >= sizeof to.sun_path) return;
    to.sun_family = AF_UNIX;
    std::memcpy(to.sun_path, path.data(), path.size());
    if (to.sun_path[0] == '@') to.sun_path[0] = '\0';
    core::Fd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return;
    auto size = socklen_t(offsetof(sockaddr_un, sun_path) + path.size());
    ::sendto(fd.get(), state, std::strlen(state), MSG_NOSIGNAL,
             reinterpret_cast<sockaddr*>(&to), size);
}

}  // namespace server
