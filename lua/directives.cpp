// The Lua modules: their directives, and Lua's place in the life of the process: the machine and
// init_by_lua in the master, init_worker_by_lua and exit_worker_by_lua in the workers.
#include <malloc.h>

#include "core/process.h"
#include "core/text.h"
#include "lua/api.h"
#include "lua/balancer_by_lua.h"
#include "lua/by_lua.h"
#include "lua/code_cache.h"
#include "lua/conf.h"
#include "lua/limits.h"
#include "lua/log_once.h"
#include "lua/set_by_lua.h"
#include "lua/sources.h"
#include "lua/tls_settings.h"
#include "lua/vm.h"
#include "server/config.h"
#include "server/main_conf.h"
#include "server/worker.h"

namespace lua {
namespace {

using conf::call;
using conf::field;
using conf::Line;
using conf::Result;
using conf::takes;
using conf::takes_block;
using conf::takes_flag;
using Form = LuaChunk::Form;
using Main = LuaMainConf;
using Loc = LuaConf;

server::Configuration& configuration(const Line& line) {
    return *static_cast<server::Configuration*>(line.binder.subject);
}

// What the configuration being loaded uses; in its http level's LuaMainConf.
LuaHandlers& handlers(const Line& line) {
    auto& configured = configuration(line);
    conf::Level& level = *configured.http_level();
    return static_cast<LuaMainConf*>(line.binder.own(level, lua_main_module.index))->handlers;
}

Result<std::shared_ptr<LuaChunk>> make_chunk(const Line& line, const char* tag, Form form) {
    if (line.arg(line.count() - 1).empty())
        return conf::Error{"invalid location config: no runnable Lua code"};
    auto chunk = LuaChunk::from(line, line.count() - 1, tag, form);
    if (chunk) handlers(line).chunks.push_back(*chunk);
    return chunk;
}

// "content_by_lua_block" → "content_by_lua": how chunk names call it.
constexpr core::Slice slot_names[] = {
    "server_rewrite_by_lua", "rewrite_by_lua", "access_by_lua", "precontent_by_lua",
    "content_by_lua", "header_filter_by_lua", "body_filter_by_lua", "log_by_lua",
    "ssl_client_hello_by_lua", "ssl_session_fetch_by_lua", "ssl_certificate_by_lua",
    "ssl_session_store_by_lua", "proxy_ssl_certificate_by_lua", "proxy_ssl_verify_by_lua",
};

template <HandlerSlot slot, Form form>
Result<void> set_handler(Loc& conf, const Line& line) {
    auto& place = conf.chunks[size_t(slot)];
    if (place) return conf::detail::duplicate();
    auto chunk = make_chunk(line, slot_names[size_t(slot)].data(), form);
    if (!chunk) return chunk.take_error();
    place = *chunk;
    if (slot == HandlerSlot::content) return server::set_content_handler(line, run_content);
    return {};
}

template <std::shared_ptr<LuaChunk> Main::*member, Form form>
Result<void> set_main_handler(Main& conf, const Line& line) {
    if (conf.*member) return conf::detail::duplicate();
    core::Slice name = line.name();
    std::string tag(name.substr(0, name.find("_by_lua") + 7));
    auto chunk = make_chunk(line, tag.c_str(), form);
    if (!chunk) return chunk.take_error();
    conf.*member = *chunk;
    return {};
}

template <Form form>
Result<void> balancer_by_lua(Loc&, const Line& line) {
    auto chunk = make_chunk(line, "balancer_by_lua", form);
    if (!chunk) return chunk.take_error();
    return add_balancer(*chunk, line);
}

Result<void> balancer_keepalive(Loc&, const Line& line) { return set_balancer_keepalive(line); }

template <Form form>
Result<void> set_by_lua(Loc&, const Line& line) {
    return add_set_by_lua(line, handlers(line), form);
}

// on, off, or auto.
Result<void> code_cache(Loc& conf, const Line& line) {
    if (conf.code_cache.is_set) return conf::detail::duplicate();
    if (conf::is_word(line.arg(0), "auto")) {
        conf::Level& level = *configuration(line).http_level();
        static_cast<Main*>(line.binder.own(level, lua_main_module.index))->follows_files = true;
        conf.code_cache.set(CodeCache::automatic);
        return {};
    }
    bool on = true;
    auto parsed = conf::parse_setting(on, line);
    if (!parsed) return parsed;
    conf.code_cache.set(on ? CodeCache::on : CodeCache::off);
    if (!on) {
        LOG(core::process_log(), alert, 0,
            "lua_code_cache is off; this will hurt performance in %s:%d",
            line.node.place.file ? line.node.place.file->c_str() : "", line.node.place.line);
    }
    return {};
}

// The ticks are as frequent as the smallest limit needs.
Result<void> max_cpu_time(Loc& conf, const Line& line) {
    if (conf.max_cpu_time.is_set) return conf::detail::duplicate();
    auto parsed = conf::parse_setting(conf.max_cpu_time.value, line);
    if (!parsed) return parsed;
    conf.max_cpu_time.is_set = true;
    if (int64_t limit = conf.max_cpu_time.value) {
        conf::Level& level = *configuration(line).http_level();
        auto& main = *static_cast<Main*>(line.binder.own(level, lua_main_module.index));
        if (!main.cpu_time_least_ms || limit < main.cpu_time_least_ms)
            main.cpu_time_least_ms = limit;
    }
    return {};
}

// off, or a time.
Result<void> stall_warning(Main& conf, const Line& line) {
    if (conf.stall_warning.is_set) return conf::detail::duplicate();
    conf.stall_warning.is_set = true;
    if (conf::is_word(line.arg(0), "off")) {
        conf.stall_warning.value = {0};
        return {};
    }
    return conf::parse_setting(conf.stall_warning.value, line);
}

Result<void> load_resty_core(Main&, const Line& line) {
    line.binder.warn(line.node.place, "lua_load_resty_core is deprecated (the lua-resty-core "
                                      "library is required since ngx_lua v0.10.16)");
    return {};
}

Result<void> merge(Loc& conf, const Loc* outer, conf::Binder& binder) {
    if (!outer) return inherit_tls_settings(conf, nullptr, binder);
    for (size_t i = 0; i < size_t(HandlerSlot::count); ++i)
        if (!conf.chunks[i]) conf.chunks[i] = outer->chunks[i];
    conf.code_cache.inherit(outer->code_cache);
    conf.max_cpu_time.inherit(outer->max_cpu_time);
    if (conf.code_cache.value == CodeCache::automatic) {
        for (const auto& chunk : conf.chunks)
            if (chunk) chunk->follow();
    }
    return inherit_tls_settings(conf, outer, binder);
}

constexpr uint32_t everywhere = conf::in_http | conf::in_server | conf::in_location |
                                conf::in_location_if;
constexpr uint32_t in_levels = conf::in_any_http;
constexpr uint32_t in_servers = conf::in_http | conf::in_server;
// Settings of machines: those of stream {} are read, and wait for scripts in there.
constexpr uint32_t in_blocks = conf::in_http | conf::in_stream;
constexpr uint32_t in_locations = conf::in_location | conf::in_location_if;
constexpr uint32_t in_scripts =
    conf::in_server | conf::in_location | conf::in_server_if | conf::in_location_if;

template <HandlerSlot slot>
constexpr auto text_handler = call<set_handler<slot, Form::text>>;
template <HandlerSlot slot>
constexpr auto file_handler = call<set_handler<slot, Form::file>>;
template <auto member>
constexpr auto main_text = call<set_main_handler<member, Form::text>>;
template <auto member>
constexpr auto main_file = call<set_main_handler<member, Form::file>>;

Result<void> set_capture_error_log(Main& conf, const Line& line) {
    constexpr int64_t bytes_min = 4096;
    auto bytes = conf::parse_size(line.arg(0));
    if (!bytes || *bytes < bytes_min) {
        return conf::Error{core::format("invalid capture error log size \"%.*s\", "
                                        "minimum size is %d", int(line.arg(0).size()),
                                        line.arg(0).data(), int(bytes_min))};
    }
    if (conf.capture_error_log.is_set) return conf::detail::duplicate();
    conf.capture_error_log.set({*bytes});
    return {};
}

constexpr conf::Directive main_directives[] = {
    {"lua_load_resty_core", conf::in_http, takes_flag(), call<load_resty_core>},
    {"lua_thread_cache_max_entries", conf::in_http, takes(1),
     field<&Main::thread_cache_max_entries>},
    {"lua_max_running_timers", conf::in_http, takes(1), field<&Main::max_running_timers>},
    {"lua_max_pending_timers", conf::in_http, takes(1), field<&Main::max_pending_timers>},
    {"lua_capture_error_log", conf::in_http, takes(1), call<set_capture_error_log>},
    {"lua_sa_restart", conf::in_http, takes_flag(), field<&Main::sa_restart>},
    {"lua_regex_cache_max_entries", in_blocks, takes(1), field<&Main::regex_cache_max_entries>},
    {"lua_regex_match_limit", conf::in_http, takes(1), field<&Main::regex_match_limit>},
    {"lua_package_path", in_blocks, takes(1), field<&Main::package_path>},
    {"lua_package_cpath", in_blocks, takes(1), field<&Main::package_cpath>},
    {"lua_malloc_trim", conf::in_http, takes(1), field<&Main::malloc_trim>},
    {"lua_worker_thread_vm_pool_size", conf::in_http, takes(1),
     field<&Main::worker_thread_vm_pool_size>},
    {"lua_stall_warning", conf::in_http, takes(1), call<stall_warning>},
    {"lua_max_memory", conf::in_http, takes(1), field<&Main::max_memory>},
    {"rewrite_by_lua_no_postpone", conf::in_http, takes_flag(), field<&Main::rewrite_no_postpone>},
    {"access_by_lua_no_postpone", conf::in_http, takes_flag(), field<&Main::access_no_postpone>},
    {"precontent_by_lua_no_postpone", conf::in_http, takes_flag(),
     field<&Main::precontent_no_postpone>},
    {"init_by_lua", conf::in_http, takes(1), main_text<&Main::init>},
    {"init_by_lua_block", conf::in_http, takes_block(), main_text<&Main::init>},
    {"init_by_lua_file", conf::in_http, takes(1), main_file<&Main::init>},
    {"init_worker_by_lua", conf::in_http, takes(1), main_text<&Main::init_worker>},
    {"init_worker_by_lua_block", conf::in_http, takes_block(), main_text<&Main::init_worker>},
    {"init_worker_by_lua_file", conf::in_http, takes(1), main_file<&Main::init_worker>},
    {"exit_worker_by_lua_block", conf::in_http, takes_block(), main_text<&Main::exit_worker>},
    {"exit_worker_by_lua_file", conf::in_http, takes(1), main_file<&Main::exit_worker>},
};

using Slot = HandlerSlot;
constexpr conf::Directive directives[] = {
    {"lua_code_cache", everywhere, takes(1), call<code_cache>},
    {"lua_max_cpu_time", in_levels, takes(1), call<max_cpu_time>},
    {"lua_need_request_body", everywhere, takes_flag(), field<&Loc::need_request_body>},
    {"lua_use_default_type", everywhere, takes_flag(), field<&Loc::use_default_type>},
    {"lua_transform_underscores_in_response_headers", everywhere, takes_flag(),
     field<&Loc::transform_underscores>},
    {"lua_check_client_abort", everywhere, takes_flag(), field<&Loc::check_client_abort>},
    {"lua_ctx_inherit", everywhere, takes_flag(), field<&Loc::ctx_inherit>},
    {"lua_http10_buffering", everywhere, takes_flag(), field<&Loc::http10_buffering>},
    {"lua_socket_log_errors", everywhere | conf::in_stream | conf::in_stream_server, takes_flag(),
     field<&Loc::socket_log_errors>},
    {"lua_socket_connect_timeout", everywhere, takes(1), field<&Loc::socket_connect_timeout>},
    {"lua_socket_send_timeout", everywhere, takes(1), field<&Loc::socket_send_timeout>},
    {"lua_socket_read_timeout", everywhere, takes(1), field<&Loc::socket_read_timeout>},
    {"lua_socket_keepalive_timeout", everywhere, takes(1), field<&Loc::socket_keepalive_timeout>},
    {"lua_socket_send_lowat", everywhere, takes(1), field<&Loc::socket_send_lowat>},
    {"lua_socket_buffer_size", everywhere, takes(1), field<&Loc::socket_buffer_size>},
    {"lua_socket_pool_size", everywhere, takes(1), field<&Loc::socket_pool_size>},
    {"lua_ssl_verify_depth", in_levels, takes(1), field<&Loc::ssl_verify_depth>},
    {"lua_ssl_protocols", in_levels, conf::takes_at_least(1), field<&Loc::ssl_protocols>},
    {"lua_ssl_ciphers", in_levels, takes(1), field<&Loc::ssl_ciphers>},
    {"lua_ssl_certificate", in_levels, takes(1), field<&Loc::ssl_certificate>},
    {"lua_ssl_certificate_key", in_levels, takes(1), field<&Loc::ssl_certificate_key>},
    {"lua_ssl_trusted_certificate", in_levels, takes(1), field<&Loc::ssl_trusted_certificate>},
    {"lua_ssl_crl", in_levels, takes(1), field<&Loc::ssl_crl>},
    {"lua_ssl_key_log", in_levels, takes(1), field<&Loc::ssl_key_log>},
    {"lua_ssl_conf_command", in_levels, takes(2), field<&Loc::ssl_conf_command>},
    {"lua_upstream_skip_openssl_default_verify", in_locations, takes_flag(),
     field<&Loc::upstream_skip_default_verify>},
    {"set_by_lua", in_scripts, conf::takes_at_least(2), call<set_by_lua<Form::text>>},
    {"set_by_lua_block", in_scripts, takes_block(1, 1), call<set_by_lua<Form::text>>},
    {"set_by_lua_file", in_scripts, conf::takes_at_least(2), call<set_by_lua<Form::file>>},
    {"server_rewrite_by_lua_block", in_servers, takes_block(),
     text_handler<Slot::server_rewrite>},
    {"server_rewrite_by_lua_file", in_servers, takes(1),
     file_handler<Slot::server_rewrite>},
    {"rewrite_by_lua", everywhere, takes(1), text_handler<Slot::rewrite>},
    {"rewrite_by_lua_block", everywhere, takes_block(), text_handler<Slot::rewrite>},
    {"rewrite_by_lua_file", everywhere, takes(1), file_handler<Slot::rewrite>},
    {"access_by_lua", everywhere, takes(1), text_handler<Slot::access>},
    {"access_by_lua_block", everywhere, takes_block(), text_handler<Slot::access>},
    {"access_by_lua_file", everywhere, takes(1), file_handler<Slot::access>},
    {"precontent_by_lua_block", everywhere, takes_block(), text_handler<Slot::precontent>},
    {"precontent_by_lua_file", everywhere, takes(1), file_handler<Slot::precontent>},
    {"content_by_lua", in_locations, takes(1), text_handler<Slot::content>},
    {"content_by_lua_block", in_locations, takes_block(), text_handler<Slot::content>},
    {"content_by_lua_file", in_locations, takes(1), file_handler<Slot::content>},
    {"header_filter_by_lua", everywhere, takes(1), text_handler<Slot::header_filter>},
    {"header_filter_by_lua_block", everywhere, takes_block(), text_handler<Slot::header_filter>},
    {"header_filter_by_lua_file", everywhere, takes(1), file_handler<Slot::header_filter>},
    {"body_filter_by_lua", everywhere, takes(1), text_handler<Slot::body_filter>},
    {"body_filter_by_lua_block", everywhere, takes_block(), text_handler<Slot::body_filter>},
    {"body_filter_by_lua_file", everywhere, takes(1), file_handler<Slot::body_filter>},
    {"log_by_lua", everywhere, takes(1), text_handler<Slot::log>},
    {"log_by_lua_block", everywhere, takes_block(), text_handler<Slot::log>},
    {"log_by_lua_file", everywhere, takes(1), file_handler<Slot::log>},
    {"ssl_client_hello_by_lua_block", in_servers, takes_block(),
     text_handler<Slot::ssl_client_hello>},
    {"ssl_client_hello_by_lua_file", in_servers, takes(1), file_handler<Slot::ssl_client_hello>},
    {"ssl_certificate_by_lua_block", in_servers, takes_block(),
     text_handler<Slot::ssl_certificate>},
    {"ssl_certificate_by_lua_file", in_servers, takes(1), file_handler<Slot::ssl_certificate>},
    {"ssl_session_fetch_by_lua_block", conf::in_http, takes_block(),
     text_handler<Slot::ssl_session_fetch>},
    {"ssl_session_fetch_by_lua_file", conf::in_http, takes(1),
     file_handler<Slot::ssl_session_fetch>},
    {"ssl_session_store_by_lua_block", conf::in_http, takes_block(),
     text_handler<Slot::ssl_session_store>},
    {"ssl_session_store_by_lua_file", conf::in_http, takes(1),
     file_handler<Slot::ssl_session_store>},
    {"proxy_ssl_certificate_by_lua_block", in_locations, takes_block(),
     text_handler<Slot::proxy_ssl_certificate>},
    {"proxy_ssl_certificate_by_lua_file", in_locations, takes(1),
     file_handler<Slot::proxy_ssl_certificate>},
    {"proxy_ssl_verify_by_lua_block", in_locations, takes_block(),
     text_handler<Slot::proxy_ssl_verify>},
    {"proxy_ssl_verify_by_lua_file", in_locations, takes(1), file_handler<Slot::proxy_ssl_verify>},
    {"balancer_by_lua_block", conf::in_upstream, takes_block(), call<balancer_by_lua<Form::text>>},
    {"balancer_by_lua_file", conf::in_upstream, takes(1), call<balancer_by_lua<Form::file>>},
    {"balancer_keepalive", conf::in_upstream, takes(1), call<balancer_keepalive>},
};

// ---- the process ----

void use_compat(server::Configuration& configuration) {
    set_compat_openresty(
        configuration.main<server::MainConf>(server::main_module).lua_compat_openresty);
}

// With lua_code_cache auto on the http level every file is followed, also those of handlers that no
// location has (balancer_by_lua_file, set_by_lua_file).
void follow_files(server::Configuration& configuration) {
    const LuaConf& conf = *static_cast<const LuaConf*>(
        configuration.http_level()->get(lua_module.index));
    if (conf.code_cache.value != CodeCache::automatic) return;
    for (const auto& chunk : configuration.http<LuaMainConf>(lua_main_module).handlers.chunks)
        chunk->follow();
}

conf::Result<void> prepare(server::Configuration& configuration) {
    use_compat(configuration);
    if (configuration.http_level()) follow_files(configuration);
    if (!errors_unwind()) return conf::Error{"this build's Lua errors do not unwind C++ frames"};
    if (!configuration.options().test_only || !configuration.http_level()) return {};
    LuaMainConf& conf = configuration.http<LuaMainConf>(lua_main_module);
    if (conf.handlers.chunks.empty()) return {};
    std::unique_ptr<LuaVm> vm = make_vm(core::process_log());
    if (!vm) return conf::Error{"failed to initialize Lua VM"};
    for (const auto& chunk : conf.handlers.chunks) {
        auto checked = chunk->check(*vm);
        if (!checked) return checked;
    }
    return {};
}

conf::Result<void> init_process(server::Configuration& configuration) {
    if (!configuration.http_level()) return {};
    LuaMainConf& conf = configuration.http<LuaMainConf>(lua_main_module);
    if (conf.handlers.chunks.empty() && !conf.follows_files) return {};
    conf.vm = make_vm(core::process_log());
    if (!conf.vm) return conf::Error{"failed to initialize Lua VM"};
    if (conf.follows_files) {
        share_marks();
        follow_modules(*conf.vm);
    }
    LuaVm* before = LuaVm::current();
    LuaVm::set_current(conf.vm.get());
    if (!conf.init || conf.init->call_main(*conf.vm, core::process_log(), conf.init->is_file() ?
                                           "init_by_lua_file" : "init_by_lua")) return {};
    conf.vm.reset();
    LuaVm::set_current(before);
    return conf::Error{"init_by_lua failed"};
}

void worker_handler_done(LuaTask&, void*) {}

// Log lines of init_worker_by_lua end with ", context: init_worker_by_lua*"; upstream says nothing
// of the kind in exit_worker_by_lua.
const core::LogContext& worker_log(LuaPhase phase) {
    static core::LogContext log;
    log = core::process_log();
    if (phase == LuaPhase::exit_worker) return log;
    log.subject = context_name(phase);
    log.describe = [](const void* subject, core::LogLine& line) {
        line.append(", context: ");
        line.append(static_cast<const char*>(subject));
    };
    return log;
}

// Runs init_worker_by_lua or exit_worker_by_lua as a task of the worker.
void run_worker_handler(LuaVm& vm, LuaChunk& chunk, LuaPhase phase,
                        const server::Configuration& configuration) {
    LuaTask& task = create_task(vm, phase, nullptr);
    task.conf = static_cast<const LuaConf*>(
        const_cast<server::Configuration&>(configuration).http_level()->get(lua_module.index));
    task.done = worker_handler_done;
    task.log_context = &worker_log(phase);
    const char* what = phase == LuaPhase::init_worker
                           ? chunk.is_file() ? "init_worker_by_lua_file" : "init_worker_by_lua"
                           : chunk.is_file() ? "exit_worker_by_lua_file" : "exit_worker_by_lua";
    if (!chunk.push_once(task.entry->L, task.log(), what)) {
        task.end = TaskEnd::failed;
        return destroy_task(task);
    }
    bool leaving = phase == LuaPhase::exit_worker;
    if (run_task(task) != TaskEnd::running || leaving) destroy_task(task);
}

// The files that requests will run.
void prefetch(const LuaMainConf& conf) {
    for (const auto& chunk : conf.handlers.chunks) {
        if (chunk != conf.init && chunk != conf.init_worker && chunk != conf.exit_worker)
            chunk->prefetch(*conf.vm);
    }
}

conf::Result<void> init_worker(server::Worker& worker) {
    server::Configuration& configuration = worker.configuration;
    if (!configuration.http_level()) return {};
    LuaMainConf& conf = configuration.http<LuaMainConf>(lua_main_module);
    if (!conf.vm) return {};
    use_compat(configuration);
    LuaVm::set_current(conf.vm.get());
    if (conf.follows_files) {
        start_watching();
        prefetch(conf);
    }
    start_limits(*conf.vm, conf.stall_warning.value, conf.cpu_time_least_ms);
    if (conf.init_worker)
        run_worker_handler(*conf.vm, *conf.init_worker, LuaPhase::init_worker, configuration);
    return {};
}

void exit_worker(server::Worker& worker) {
    server::Configuration& configuration = worker.configuration;
    if (!configuration.http_level()) return;
    LuaMainConf& conf = configuration.http<LuaMainConf>(lua_main_module);
    if (conf.vm && conf.exit_worker)
        run_worker_handler(*conf.vm, *conf.exit_worker, LuaPhase::exit_worker, configuration);
    LuaChunk::forget_followed();
    stop_watching();
}

}  // namespace

constinit const server::Module lua_main_module{
    .name = "lua_main",
    .conf = server::conf_of<LuaMainConf>,
    .directives = main_directives,
    .prepare = prepare,
    .init_process = init_process,
    .init_worker = init_worker,
    .exit_worker = exit_worker,
};
REGISTER_MODULE(lua_main_module);

const server::Module lua_module{
    .name = "lua",
    .conf = server::conf_with_merge<LuaConf, merge>,
    .directives = directives,
    .handlers = lua_phase_handlers,
    .filters = lua_filters,
    .has_request_state = true,
};
REGISTER_MODULE(lua_module);

const LuaMainConf& main_conf() {
    return server::Configuration::current().http<LuaMainConf>(lua_main_module);
}

std::unique_ptr<LuaVm> make_vm(const core::LogContext& log) {
    auto& configuration = server::Configuration::current();
    const LuaMainConf& conf = main_conf();
    LuaVm::Options options;
    options.package_path = conf.package_path;
    options.package_cpath = conf.package_cpath;
    options.prefix = configuration.options().prefix;
    options.memory_max = size_t(conf.max_memory.value);
    options.coroutines_max = size_t(conf.thread_cache_max_entries.value);
    options.log = &log;
    auto made = LuaVm::create(options);
    if (made) return std::move(*made);
    LOG(log, alert, 0, "%s", made.error().what.c_str());
    return nullptr;
}

}  // namespace lua
