// ngx.worker.pids and ngx.process: the processes of this server; and signal numbers for
// resty.signal.
#include <signal.h>
#include <unistd.h>

#include <cstring>

#include "lua/api/ffi.h"
#include "server/config.h"
#include "server/worker.h"

namespace lua {
namespace {

struct SignalName {
    const char* name;
    int number;
};
constexpr SignalName signal_names[] = {
    {"NONE", 0},         {"HUP", SIGHUP},       {"INT", SIGINT},     {"QUIT", SIGQUIT},
    {"ILL", SIGILL},     {"TRAP", SIGTRAP},     {"ABRT", SIGABRT},   {"BUS", SIGBUS},
    {"FPE", SIGFPE},     {"KILL", SIGKILL},     {"USR1", SIGUSR1},   {"SEGV", SIGSEGV},
    {"USR2", SIGUSR2},   {"PIPE", SIGPIPE},     {"ALRM", SIGALRM},   {"TERM", SIGTERM},
    {"CHLD", SIGCHLD},   {"CONT", SIGCONT},     {"STOP", SIGSTOP},   {"TSTP", SIGTSTP},
    {"TTIN", SIGTTIN},   {"TTOU", SIGTTOU},     {"URG", SIGURG},     {"XCPU", SIGXCPU},
    {"XFSZ", SIGXFSZ},   {"VTALRM", SIGVTALRM}, {"PROF", SIGPROF},   {"WINCH", SIGWINCH},
    {"IO", SIGIO},       {"SYS", SIGSYS},
#ifdef SIGPWR
    {"PWR", SIGPWR},
#endif
#ifdef SIGEMT
    {"EMT", SIGEMT},
#endif
#ifdef SIGINFO
    {"INFO", SIGINFO},
#endif
};

}  // namespace
}  // namespace lua

// -1 for a name that this system does not know.
LUA_FFI int ngx_http_lua_ffi_signal_number(const char* name) {
    for (const auto& signal : lua::signal_names) {
        if (std::strcmp(signal.name, name) == 0) return signal.number;
    }
    return -1;
}

LUA_FFI int ngx_http_lua_ffi_worker_pids(int* pids, size_t* pids_len) {
    size_t count = server::worker_pids(pids, *pids_len);
    if (count == 0) return lua::ffi_error;
    *pids_len = count;
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_master_pid(void) {
    return int(server::master_pid());
}

// nginx's numbers of process types.
LUA_FFI int ngx_http_lua_ffi_get_process_type(void) {
    using Type = server::ProcessType;
    switch (server::process_type()) {
    case Type::single: return 0;
    case Type::master: return 1;
    case Type::signaller: return 2;
    case Type::worker: return 3;
    case Type::privileged_agent: return 99;
    }
    return 0;
}

LUA_FFI int ngx_http_lua_ffi_enable_privileged_agent(char**, unsigned int connections) {
    server::Configuration::current().privileged_agent_connections = connections;
    return lua::ffi_ok;
}

LUA_FFI void ngx_http_lua_ffi_process_signal_graceful_exit(void) {
    kill(getpid(), SIGQUIT);
}
