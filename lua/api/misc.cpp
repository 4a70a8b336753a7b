// Small questions from Lua: which phase, which process, is this a subrequest; and the constants of
// ngx.config.
#include <unistd.h>

#include "lua/api/ffi.h"
#include "server/config.h"
#include "server/http/request.h"
#include "server/main_conf.h"
#include "server/worker.h"

namespace lua {
namespace {

const server::MainConf& process_conf() {
    return server::Configuration::current().main<server::MainConf>(server::main_module);
}

}  // namespace
}  // namespace lua

// The process's arguments under nginx's name, for Lua code that looks for its own binary.
extern "C" {
[[gnu::visibility("default"), gnu::used]] char** ngx_argv = nullptr;
}

// The C library hands a program's arguments to its constructors as well.
[[gnu::constructor]] static void keep_arguments(int, char** arguments, char**) {
    ngx_argv = arguments;
}

LUA_FFI int ngx_http_lua_ffi_get_phase(ngx_http_request_t* r, char**) {
    return int(r->phase);
}

LUA_FFI int ngx_http_lua_ffi_is_subrequest(ngx_http_request_t* r) {
    return r->request ? r->request->parent != nullptr : lua::ffi_bad_context;
}

// `env NAME=value` of the configuration, for os.getenv() in init_by_lua: the text's address, and
// the length of the name in it.
LUA_FFI int ngx_http_lua_ffi_get_conf_env(const unsigned char* name, unsigned char** env_buf,
                                          size_t* name_len) {
    core::Slice wanted = reinterpret_cast<const char*>(name);
    for (const std::string& entry : lua::process_conf().env) {
        size_t equals = entry.find('=');
        if (equals == std::string::npos || core::Slice(entry).substr(0, equals) != wanted) continue;
        *env_buf = lua::bytes_of(entry);
        *name_len = equals;
        return lua::ffi_ok;
    }
    return lua::ffi_declined;
}

LUA_FFI int ngx_http_lua_ffi_worker_pid(void) {
    return int(getpid());
}

LUA_FFI int ngx_http_lua_ffi_worker_id(void) {
    const server::Worker* worker = server::Worker::current();
    return worker ? worker->id : -1;
}

LUA_FFI int ngx_http_lua_ffi_worker_count(void) {
    return lua::process_conf().worker_processes;
}

LUA_FFI int ngx_http_lua_ffi_worker_exiting(void) {
    const server::Worker* worker = server::Worker::current();
    return worker && worker->leaving();
}
