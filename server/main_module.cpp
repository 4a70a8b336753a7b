// The directives of the main and events levels, and the `http` block that opens the rest. Their
// values are read by main, master and worker through MainConf.
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "conf/binder.h"
#include "core/process.h"
#include "core/regex.h"
#include "core/text.h"
#include "server/config.h"
#include "server/error_log.h"
#include "server/features.h"
#include "server/main_conf.h"

namespace server {

namespace {

using conf::call;
using conf::Error;
using conf::field;
using conf::in_events;
using conf::in_main;
using conf::Line;
using conf::Result;
using conf::takes;
using conf::takes_flag;

constexpr int workers_max = 1024;          // slots in the shared counters
constexpr size_t cpus_max = 1024;

Error invalid(const char* what, core::Slice value) {
    return Error{std::string(what) + " \"" + std::string(value) + "\""};
}

Result<void> worker_processes(MainConf& conf, const Line& line) {
    if (conf.worker_processes_set) return conf::detail::duplicate();
    conf.worker_processes_set = true;
    if (line.arg(0) == "auto") {
        conf.worker_processes = std::min(core::processors_online(), workers_max);
        return {};
    }
    auto count = core::parse_number(line.arg(0), INT32_MAX);
    if (!count) return Error{"invalid value"};
    if (*count < 1 || *count > uint64_t(workers_max)) {
        return Error{core::format("\"worker_processes\" must be between 1 and %d", workers_max)};
    }
    conf.worker_processes = int(*count);
    return {};
}

// "0101": the last digit is the first processor.
Result<void> parse_mask(core::Slice text, std::vector<bool>& to) {
    if (text.size() > cpus_max) {
        return Error{core::format("\"worker_cpu_affinity\" supports up to %zu CPUs only",
                                  cpus_max)};
    }
    for (size_t i = text.size(); i-- > 0;) {
        if (text[i] == ' ') continue;
        if (text[i] != '0' && text[i] != '1') {
            return Error{core::format("invalid character \"%c\" in \"worker_cpu_affinity\"",
                                      text[i])};
        }
        to.push_back(text[i] == '1');
    }
    return {};
}

Result<void> worker_cpu_affinity(MainConf& conf, const Line& line) {
    if (conf.cpu_affinity_auto || !conf.cpu_affinity.empty()) return conf::detail::duplicate();
    size_t first = 0;
    if (line.arg(0) == "auto") {
        if (line.count() > 2) {
            return Error{"invalid number of arguments in \"worker_cpu_affinity\" directive"};
        }
        conf.cpu_affinity_auto = true;
        first = 1;
    }
    for (size_t i = first; i < line.count(); ++i) {
        std::vector<bool> mask;
        auto parsed = parse_mask(line.arg(i), mask);
        if (!parsed) return parsed;
        conf.cpu_affinity.push_back(std::move(mask));
    }
    return {};
}

// "-5" or "5".
Result<void> worker_priority(MainConf& conf, const Line& line) {
    if (conf.worker_priority.is_set) return conf::detail::duplicate();
    core::Slice text = line.arg(0);
    bool negative = text.starts_with('-');
    if (negative || text.starts_with('+')) text.remove_prefix(1);
    auto value = core::parse_number(text, 1000);
    if (!value) return Error{"invalid number"};
    conf.worker_priority.set(negative ? -int64_t(*value) : int64_t(*value));
    return {};
}

Result<void> worker_rlimit_nofile(MainConf& conf, const Line& line) {
    if (conf.rlimit_nofile >= 0) return conf::detail::duplicate();
    auto value = core::parse_number(line.arg(0));
    if (!value) return Error{"invalid number"};
    conf.rlimit_nofile = int64_t(*value);
    return {};
}

Result<void> worker_rlimit_core(MainConf& conf, const Line& line) {
    if (conf.rlimit_core >= 0) return conf::detail::duplicate();
    auto value = conf::parse_offset(line.arg(0));
    if (!value) return Error{"invalid value"};
    conf.rlimit_core = *value;
    return {};
}

// getpwnam and getgrnam leave errno alone when there is simply no such name.
Error not_found(const char* function, const std::string& name) {
    if (!errno) return Error{core::format("%s(\"%s\") failed", function, name.c_str())};
    return Error{core::format("%s(\"%s\") failed (%d: %s)", function, name.c_str(), errno,
                              core::error_name(errno))};
}

Result<void> user(MainConf& conf, const Line& line) {
    if (!conf.user.empty()) return conf::detail::duplicate();
    conf.user = std::string(line.arg(0));
    conf.group = std::string(line.arg(line.count() > 1 ? 1 : 0));
    if (::geteuid() != 0) {
        line.binder.warn(line.node.place, "the \"user\" directive makes sense only if the master "
                                          "process runs with super-user privileges, ignored");
        return {};
    }
    errno = 0;
    if (!::getpwnam(conf.user.c_str())) return not_found("getpwnam", conf.user);
    errno = 0;
    if (!::getgrnam(conf.group.c_str())) return not_found("getgrnam", conf.group);
    return {};
}

Result<void> env(MainConf& conf, const Line& line) {
    conf.env.emplace_back(line.arg(0));
    return {};
}

Result<void> error_log(MainConf&, const Line& line) {
    return add_error_log(line, Configuration::current().error_log);
}

Result<void> pcre_jit(MainConf& conf, const Line& line) {
    if (conf.pcre_jit.is_set) return conf::detail::duplicate();
    auto parsed = conf::parse_setting(conf.pcre_jit.value, line);
    if (!parsed) return parsed;
    conf.pcre_jit.is_set = true;
    core::Regex::jit_by_default = conf.pcre_jit;
    return {};
}

Result<void> debug_points(MainConf& conf, const Line& line) {
    if (conf.debug_points != DebugPoints::none) return conf::detail::duplicate();
    if (line.arg(0) == "stop") conf.debug_points = DebugPoints::stop;
    else if (line.arg(0) == "abort") conf.debug_points = DebugPoints::abort;
    else return Error{"invalid value \"" + std::string(line.arg(0)) + "\""};
    return {};
}

Result<void> thread_pool_parameter(ThreadPoolConf& pool, core::Slice parameter) {
    struct Kind { core::Slice prefix; int* to; };
    for (Kind kind : {Kind{"threads=", &pool.threads}, Kind{"max_queue=", &pool.max_queue}}) {
        if (!parameter.starts_with(kind.prefix)) continue;
        auto value = core::parse_number(parameter.substr(kind.prefix.size()), INT32_MAX);
        if (!value || (kind.to == &pool.threads && *value == 0)) {
            kind.prefix.remove_suffix(1);
            return Error{"invalid " + std::string(kind.prefix) + " value \"" +
                         std::string(parameter) + "\""};
        }
        *kind.to = int(*value);
        return {};
    }
    return conf::invalid_parameter(parameter);
}

Result<void> thread_pool(MainConf& conf, const Line& line) {
    ThreadPoolConf pool{.name = std::string(line.arg(0)), .threads = 0};
    for (const ThreadPoolConf& known : conf.thread_pools) {
        if (known.name == pool.name) return Error{"duplicate thread pool \"" + pool.name + "\""};
    }
    for (size_t i = 1; i < line.count(); ++i) {
        auto parsed = thread_pool_parameter(pool, line.arg(i));
        if (!parsed) return parsed;
    }
    if (pool.threads == 0) {
        return Error{"\"" + std::string(line.name()) + "\" must have \"threads\" parameter"};
    }
    conf.thread_pools.push_back(std::move(pool));
    return {};
}

// Everything is linked in: what a configuration for nginx loads is there, or cannot be had.
Result<void> load_module(MainConf&, const Line& line) {
    if (is_built_in(line.arg(0))) {
        line.binder.warn(line.node.place, "module \"" + std::string(line.arg(0)) +
                                              "\" is built in, \"load_module\" is ignored");
        return {};
    }
    return Error{"module \"" + std::string(line.arg(0)) +
                 "\" is not built in, and binary modules cannot be loaded"};
}

Result<void> ssl_engine(MainConf&, const Line& line) {
    return Error{"\"ssl_engine\" directive is not supported on this platform: \"" +
                 std::string(line.arg(0)) + "\""};
}

Result<void> accepted_flag(MainConf&, const Line& line) {
    bool ignored;
    return conf::parse_setting(ignored, line);
}

// Sizes of arrays that nginx hands to the kernel.
Result<void> accepted_number(MainConf&, const Line& line) {
    int64_t ignored;
    return conf::parse_setting(ignored, line);
}

Result<void> lua_compat(MainConf& conf, const Line& line) {
    if (line.arg(0) == "openresty") conf.lua_compat_openresty = true;
    else if (line.arg(0) == "off") conf.lua_compat_openresty = false;
    else return conf::invalid_value(line, line.arg(0));
    return {};
}

// terminate auto | fast | graceful [delay];
Result<void> terminate(MainConf& conf, const Line& line) {
    if (conf.terminate_set) return conf::detail::duplicate();
    conf.terminate_set = true;
    if (line.arg(0) == "fast") conf.terminate = Terminate::fast;
    else if (line.arg(0) == "graceful") conf.terminate = Terminate::graceful;
    else if (line.arg(0) != "auto") return conf::invalid_value(line, line.arg(0));
    if (line.count() == 1) return {};
    auto delay = conf::parse_time_ms(line.arg(1));
    if (!delay || conf.terminate == Terminate::fast) return conf::invalid_value(line, line.arg(1));
    conf.terminate_delay_ms = *delay;
    return {};
}

Result<void> reload_workers(MainConf& conf, const Line& line) {
    if (line.arg(0) == "always") conf.reload_always = true;
    else if (line.arg(0) == "auto") conf.reload_always = false;
    else return conf::invalid_value(line, line.arg(0));
    return {};
}

// The parser has done what it says.
Result<void> environment(MainConf&, const Line&) { return {}; }

Result<void> use(MainConf& conf, const Line& line) {
    if (!conf.use.empty()) return conf::detail::duplicate();
#ifdef __linux__
    constexpr core::Slice own = "epoll";
#else
    constexpr core::Slice own = "kqueue";
#endif
    conf.use = std::string(line.arg(0));
    if (conf.use == own) return {};
    if (conf.use != "select" && conf.use != "poll") return invalid("invalid event type", conf.use);
    line.binder.warn(line.node.place, "event type \"" + conf.use + "\" is not used, \"" +
                                          std::string(own) + "\" takes its place");
    return {};
}

Result<void> debug_connection(MainConf&, const Line& line) {
    line.binder.warn(line.node.place, "\"debug_connection\" is ignored, use \"error_log … debug\" "
                                      "in the server to be watched");
    return {};
}

// The events block fills the same MainConf as the main level: its level is a passing one.
Result<void> events(MainConf& conf, const Line& line) {
    if (conf.events_seen) return conf::detail::duplicate();
    conf.events_seen = true;
    conf::Level level(line.binder.module_count(), &line.binder.current(), in_events);
    auto bound = line.binder.bind_block(line, level);
    if (!bound || !level.owns(main_module.index)) return bound;
    auto& inner = *static_cast<MainConf*>(level.get(main_module.index));
    conf.worker_connections.inherit(inner.worker_connections);
    conf.multi_accept.inherit(inner.multi_accept);
    conf.accept_mutex.inherit(inner.accept_mutex);
    conf.accept_mutex_delay.inherit(inner.accept_mutex_delay);
    conf.use = inner.use;
    return {};
}

Result<void> http(MainConf&, const Line& line) {
    return Configuration::current().bind_http(line);
}

constexpr conf::Directive directives[] = {
    {"daemon", in_main, takes_flag(), field<&MainConf::daemon>},
    {"master_process", in_main, takes_flag(), field<&MainConf::master_process>},
    {"timer_resolution", in_main, takes(1), field<&MainConf::timer_resolution>},
    {"pid", in_main, takes(1), field<&MainConf::pid>},
    {"lock_file", in_main, takes(1), field<&MainConf::lock_file>},
    {"worker_processes", in_main, takes(1), call<worker_processes>},
    {"worker_cpu_affinity", in_main, conf::takes_at_least(1), call<worker_cpu_affinity>},
    {"worker_priority", in_main, takes(1), call<worker_priority>},
    {"worker_rlimit_nofile", in_main, takes(1), call<worker_rlimit_nofile>},
    {"worker_rlimit_core", in_main, takes(1), call<worker_rlimit_core>},
    {"worker_shutdown_timeout", in_main, takes(1), field<&MainConf::worker_shutdown_timeout>},
    {"worker_draining_generations", in_main, takes(1), field<&MainConf::draining_generations>},
    {"terminate", in_main, takes(1, 2), call<terminate>},
    {"reload_workers", in_main, takes(1), call<reload_workers>},
    {"environment", in_main, takes(1, 2), call<environment>},
    {"working_directory", in_main, takes(1), field<&MainConf::working_directory>},
    {"user", in_main, takes(1, 2), call<user>},
    {"env", in_main, takes(1), call<env>},
    {"error_log", in_main, conf::takes_at_least(1), call<error_log>},
    {"debug_points", in_main, takes(1), call<debug_points>},
    {"thread_pool", in_main, takes(2, 3), call<thread_pool>},
    {"pcre_jit", in_main, takes_flag(), call<pcre_jit>},
    {"load_module", in_main, takes(1), call<load_module>},
    {"ssl_engine", in_main, takes(1), call<ssl_engine>},
    {"ssl_object_cache_inheritable", in_main, takes_flag(), call<accepted_flag>},
    {"quic_bpf", in_main, takes_flag(), call<accepted_flag>},
    {"lua_compat", in_main, takes(1), call<lua_compat>},
    {"events", in_main, conf::takes_block(), call<events>},
    {"http", in_main, conf::takes_block(), call<http>},
    {"worker_connections", in_events, takes(1), field<&MainConf::worker_connections>},
    {"multi_accept", in_events, takes_flag(), field<&MainConf::multi_accept>},
    {"accept_mutex", in_events, takes_flag(), field<&MainConf::accept_mutex>},
    {"accept_mutex_delay", in_events, takes(1), field<&MainConf::accept_mutex_delay>},
    {"use", in_events, takes(1), call<use>},
    {"worker_aio_requests", in_events, takes(1), call<accepted_number>},
#ifdef __linux__
    {"epoll_events", in_events, takes(1), call<accepted_number>},
#else
    {"kqueue_changes", in_events, takes(1), call<accepted_number>},
    {"kqueue_events", in_events, takes(1), call<accepted_number>},
#endif
    {"debug_connection", in_events, takes(1), call<debug_connection>},
};

// What nginx's build would have as its default user.
void default_user(MainConf& conf) {
    if (!conf.user.empty() || ::geteuid() != 0) return;
    conf.user = "nobody";
    conf.group = ::getgrnam("nogroup") ? "nogroup" : "nobody";
}

Result<void> merge(MainConf& conf, const MainConf* outer, conf::Binder& binder) {
    if (outer) return {};
    default_user(conf);
    conf.pid.value = binder.full_path(conf.pid.value);
    conf.lock_file.value = binder.full_path(conf.lock_file.value);
    bool has_default = false;
    for (const ThreadPoolConf& pool : conf.thread_pools) has_default |= pool.name == "default";
    if (!has_default) conf.thread_pools.push_back({.name = "default"});
    if (conf.worker_connections.value < 1) {
        return Error{"\"worker_connections\" must be at least 1"};
    }
    if (conf.draining_generations.value < 1) {
        return Error{"\"worker_draining_generations\" must be at least 1"};
    }
    return {};
}

Result<void> check_limits(Configuration& configuration) {
    auto& conf = configuration.main<MainConf>(main_module);
    int64_t limit = conf.rlimit_nofile >= 0 ? conf.rlimit_nofile : core::open_files_limit();
    if (conf.worker_connections.value > limit) {
        LOG(core::process_log(), warn, 0,
            "%lld worker_connections exceed open file resource limit: %lld",
            static_cast<long long>(conf.worker_connections.value), static_cast<long long>(limit));
    }
    return {};
}

}  // namespace

bool terminates_gracefully(const MainConf& conf) {
    if (conf.terminate != Terminate::automatic) return conf.terminate == Terminate::graceful;
    return ::getpid() == 1;
}

std::vector<bool> cpu_mask_of(const MainConf& conf, int id, int processors) {
    if (id < 0) return {};
    if (!conf.cpu_affinity_auto) {
        if (conf.cpu_affinity.empty()) return {};
        return conf.cpu_affinity[std::min(size_t(id), conf.cpu_affinity.size() - 1)];
    }
    std::vector<size_t> choice;
    for (size_t i = 0; i < size_t(processors); ++i) {
        bool allowed = conf.cpu_affinity.empty() ||
                       (i < conf.cpu_affinity[0].size() && conf.cpu_affinity[0][i]);
        if (allowed) choice.push_back(i);
    }
    if (choice.empty()) return {};
    std::vector<bool> mask(size_t(processors), false);
    mask[choice[size_t(id) % choice.size()]] = true;
    return mask;
}

constinit const Module main_module{
    .name = "main",
    .conf = conf_with_merge<MainConf, merge>,
    .directives = directives,
    .begin = [](Configuration&) { core::Regex::jit_by_default = true; },
    .prepare = check_limits,
};
REGISTER_MODULE(main_module);

}  // namespace server
