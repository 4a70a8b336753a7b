// MainConf: the settings of the main and events level (processes, files, logs). Declared in
// main_module.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "conf/directive.h"
#include "conf/values.h"

namespace server {

struct Module;

struct ThreadPoolConf {
    std::string name;
    int threads = 32;
    int max_queue = 65536;
};

enum class DebugPoints : uint8_t { none, stop, abort };

// What TERM means to the master. `automatic`: graceful for process 1 (of a container), else fast.
enum class Terminate : uint8_t { automatic, fast, graceful };

struct MainConf {
    template <class T> using Setting = conf::Setting<T>;

    Setting<bool> daemon{true};
    Setting<bool> master_process{true};
    int worker_processes = 1;
    bool worker_processes_set = false;
    // One mask a worker, bit 0 first, the last one for all further workers; with `auto` one mask of
    // the processors to be handed out one by one (empty: all). Not bound when both are unset.
    std::vector<std::vector<bool>> cpu_affinity;
    bool cpu_affinity_auto = false;
    int64_t rlimit_nofile = -1;
    int64_t rlimit_core = -1;
    Setting<int64_t> worker_priority{0};
    Setting<conf::Milliseconds> worker_shutdown_timeout{
        conf::Milliseconds{60000}};                    // 0: none
    Setting<int64_t> draining_generations{32};         // of workers, after reloads
    Terminate terminate = Terminate::automatic;
    bool terminate_set = false;
    int64_t terminate_delay_ms = 0;                    // from TERM to the end of accepting
    bool reload_always = false;                        // reload_workers always
    Setting<std::string> working_directory{""};
    std::string user;                                  // empty: not changed
    std::string group;
    Setting<std::string> pid{"logs/nginx.pid"};
    Setting<std::string> lock_file{"logs/nginx.lock"};
    std::vector<std::string> env;                      // NAME or NAME=value
    std::vector<ThreadPoolConf> thread_pools;
    Setting<bool> pcre_jit{true};
    Setting<conf::Milliseconds> timer_resolution{conf::Milliseconds{0}};   // clocks are precise
    DebugPoints debug_points = DebugPoints::none;

    // events
    bool events_seen = false;
    Setting<int64_t> worker_connections{512};
    Setting<bool> multi_accept{false};
    Setting<bool> accept_mutex{false};
    Setting<conf::Milliseconds> accept_mutex_delay{conf::Milliseconds{500}};
    std::string use;

    // lua_compat openresty: upstream's limits and their messages
    bool lua_compat_openresty = false;
};

extern const Module main_module;

// Does TERM let this process finish what it has? (Of the master, and where there is none.)
bool terminates_gracefully(const MainConf& conf);

// worker_cpu_affinity's mask of worker `id`, empty when not bound.
std::vector<bool> cpu_mask_of(const MainConf& conf, int id, int processors);

}  // namespace server
