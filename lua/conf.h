// The Lua module's settings: LuaMainConf of the http level, LuaConf of each location. Declared in
// directives.cpp; API files read them through LuaTask::conf and main_conf().
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "conf/directive.h"
#include "conf/values.h"
#include "core/log.h"
#include "lua/phase.h"
#include "lua/set_by_lua.h"
#include "server/module.h"

namespace server {
class Request;
class ComplexValue;
}

namespace lua {

class LuaVm;           // lua/vm.h
struct TlsSettings;    // lua/tls_settings.h

// The handlers a location (or server) can have; `count` is their number. See the table in
// lua/by_lua.cpp.
enum class HandlerSlot : uint8_t {
    server_rewrite, rewrite, access, precontent, content, header_filter, body_filter, log,
    ssl_client_hello, ssl_session_fetch, ssl_certificate, ssl_session_store,
    proxy_ssl_certificate, proxy_ssl_verify,
    count,
};

struct LuaMainConf {
    template <class T> using Setting = conf::Setting<T>;
    Setting<std::string> package_path{""};
    Setting<std::string> package_cpath{""};
    Setting<int64_t> max_pending_timers{1024};
    Setting<int64_t> max_running_timers{256};
    Setting<int64_t> thread_cache_max_entries{1024};
    Setting<int64_t> regex_cache_max_entries{1024};
    Setting<int64_t> regex_match_limit{0};
    Setting<int64_t> malloc_trim{1000};
    Setting<int64_t> worker_thread_vm_pool_size{10};
    Setting<conf::Milliseconds> stall_warning{conf::Milliseconds{200}};   // 0: off
    Setting<conf::Offset> max_memory{conf::Offset{0}};                    // 0: no limit
    int64_t cpu_time_least_ms = 0;               // the smallest lua_max_cpu_time; 0: none
    Setting<conf::Bytes> capture_error_log{conf::Bytes{0}};
    Setting<bool> sa_restart{true};
    Setting<bool> load_resty_core{true};
    Setting<bool> rewrite_no_postpone{false};
    Setting<bool> access_no_postpone{false};
    Setting<bool> precontent_no_postpone{false};
    std::shared_ptr<LuaChunk> init, init_worker, exit_worker;
    LuaHandlers handlers;
    bool follows_files = false;                  // lua_code_cache auto, lua_handlers
    std::unique_ptr<LuaVm> vm;                   // made in the master; null when nothing needs it
};

// lua_code_cache: off compiles for each request, automatic follows changes of files.
enum class CodeCache : uint8_t { off, on, automatic };

struct LuaConf {
    template <class T> using Setting = conf::Setting<T>;
    using Ms = conf::Milliseconds;
    std::shared_ptr<LuaChunk> chunks[size_t(HandlerSlot::count)];
    Setting<CodeCache> code_cache{CodeCache::on};
    Setting<bool> need_request_body{false};
    Setting<bool> use_default_type{true};
    Setting<bool> transform_underscores{true};   // …_in_response_headers
    Setting<bool> check_client_abort{false};
    Setting<bool> ctx_inherit{false};            // ngx.ctx goes along with internal redirects
    Setting<bool> http10_buffering{true};
    Setting<bool> socket_log_errors{true};
    Setting<Ms> socket_connect_timeout{Ms{60000}};
    Setting<Ms> socket_send_timeout{Ms{60000}};
    Setting<Ms> socket_read_timeout{Ms{60000}};
    Setting<Ms> socket_keepalive_timeout{Ms{60000}};
    Setting<conf::Bytes> socket_send_lowat{conf::Bytes{0}};
    Setting<conf::Bytes> socket_buffer_size{conf::Bytes{4096}};
    Setting<int64_t> socket_pool_size{30};
    Setting<int64_t> ssl_verify_depth{1};
    Setting<std::vector<std::string>> ssl_protocols;
    Setting<std::string> ssl_ciphers{"DEFAULT"};
    Setting<std::string> ssl_certificate, ssl_certificate_key, ssl_trusted_certificate;
    Setting<std::string> ssl_crl, ssl_key_log;
    Setting<conf::Pairs> ssl_conf_command;
    Setting<bool> upstream_skip_default_verify{false};
    std::shared_ptr<TlsSettings> tls;            // of ssl_*; null: nothing is set
    Setting<Ms> max_cpu_time{Ms{0}};             // 0: no limit

    LuaChunk* chunk(HandlerSlot slot) const { return chunks[size_t(slot)].get(); }
};

extern const server::Module lua_main_module;   // conf: LuaMainConf
extern const server::Module lua_module;        // conf: LuaConf; request state: LuaRequest

const LuaMainConf& main_conf();                // of the current configuration
// A fresh machine with the current configuration's settings (lua_code_cache off).
std::unique_ptr<LuaVm> make_vm(const core::LogContext& log);

}  // namespace lua
