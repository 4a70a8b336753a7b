// The LuaJIT machine: libraries, paths, the API of every topic, the embedded modules, resty.core.
#include "lua/vm.h"

#include <cstdlib>
#include <cstring>

#include "core/text.h"
#include "lua/api.h"
#include "lua/embedded.h"
#include "lua/limits.h"
#include "lua/vm_parts.h"

namespace lua {
namespace {

// Lua's last word when an error meets no protected call: there is nothing to return to.
int panic(lua_State* L) {
    const char* why = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "unknown reason";
    LOG(core::process_log(), alert, 0, "lua atpanic: Lua VM crashed, reason: %s", why);
    std::abort();
}

int traceback_handler(lua_State* L) {
    if (lua_isstring(L, 1)) luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

// ";;" becomes the path so far; $prefix and ${prefix} the server's.
std::string expand_path(const std::string& path, const std::string& old,
                        const std::string& prefix) {
    std::string text;
    for (size_t at = 0; at < path.size();) {
        core::Slice rest = core::Slice(path).substr(at);
        if (rest.starts_with(";;")) {
            text.append(";").append(old).append(";");
            at += 2;
        } else if (rest.starts_with("$prefix")) {
            text += prefix;
            at += 7;
        } else if (rest.starts_with("${prefix}")) {
            text += prefix;
            at += 9;
        } else {
            text += path[at++];
        }
    }
    return text;
}

// (name) → source, path of an embedded module; nothing when there is none.
int embedded_source(lua_State* L) {
    core::Slice name = check_slice(L, 1);
    for (const EmbeddedModule& module : embedded_modules()) {
        if (module.name != name) continue;
        push_slice(L, module.source);
        push_slice(L, module.path);
        return 2;
    }
    return 0;
}

// Finds modules of lualib/ after those on lua_package_path and LUA_PATH, but before LuaJIT's
// built-in directories: what a distribution put there belongs to another server.
constexpr char searcher_text[] = R"lua(
local embedded_source = ...
jit.off(true, true)                 -- nothing here is worth machine code
local loaders, searchpath = package.loaders, package.searchpath

local function is_built_in(entry)
    return entry == "./?.lua" or entry:find("^/usr/.*/lua/5%.1/%?") ~= nil
           or entry:find("/luajit%-2") ~= nil
end

local function given_path()
    local entries = {}
    for entry in package.path:gmatch("[^;]+") do
        if not is_built_in(entry) then
            entries[#entries + 1] = entry
        end
    end
    return table.concat(entries, ";")
end

table.insert(loaders, 2, function(name)
    local source, path = embedded_source(name)
    if not source then
        return "\n\tno embedded module '" .. name .. "'"
    end
    local given = given_path()
    if given ~= "" and searchpath(name, given) then
        return nil
    end
    return assert(loadstring(source, "@lualib/" .. path))
end)
)lua";

constexpr char guard_text[] = R"lua(
local log, WARN = ngx.log, ngx.WARN
local rawset, tostring, traceback, get_phase = rawset, tostring, debug.traceback, ngx.get_phase

setmetatable(_G, {__newindex = function(globals, name, value)
    rawset(globals, name, value)
    local phase = get_phase()
    if phase == "init" or phase == "init_worker" then
        return
    end
    log(WARN, "writing a global Lua variable ('", tostring(name), "') which may lead to ",
        "race conditions between concurrent requests, so prefer the use of 'local' variables",
        traceback("", 2))
end})
)lua";

// Makes the tables of a dotted name and leaves the innermost on the stack; returns the last part.
const char* open_tables(lua_State* L, const char* name) {
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    for (const char* dot; (dot = std::strchr(name, '.')); name = dot + 1) {
        lua_pushlstring(L, name, size_t(dot - name));
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        if (!lua_istable(L, -1)) {
            lua_pop(L, 1);
            lua_newtable(L);
            lua_pushvalue(L, -2);
            lua_pushvalue(L, -2);
            lua_rawset(L, -5);
        }
        lua_remove(L, -2);
        lua_remove(L, -2);
    }
    return name;
}

bool run_text(lua_State* L, const char* text, size_t size, const char* name, int arguments) {
    if (luaL_loadbuffer(L, text, size, name) == 0) {
        lua_insert(L, -1 - arguments);
        if (lua_pcall(L, arguments, 0, 0) == 0) return true;
    }
    LOG(core::process_log(), alert, 0, "failed to run %s: %s", name + 1, lua_tostring(L, -1));
    return false;
}

}  // namespace

void install_function(lua_State* L, const char* name, lua_CFunction function, void* upvalue) {
    const char* field = open_tables(L, name);
    if (upvalue) lua_pushlightuserdata(L, upvalue);
    lua_pushcclosure(L, function, upvalue ? 1 : 0);
    lua_setfield(L, -2, field);
    lua_pop(L, 1);
}

void install_embedded_modules(lua_State* L) {
    lua_pushcfunction(L, embedded_source);
    run_text(L, searcher_text, sizeof searcher_text - 1, "=embedded modules", 1);
}

core::Result<std::unique_ptr<LuaVm>> LuaVm::create(const Options& options) {
    std::unique_ptr<LuaVm> vm(new LuaVm);
    vm->L = luaL_newstate();
    if (!vm->L) return core::Error{"failed to initialize Lua VM"};
    lua_State* L = vm->L;
    lua_atpanic(L, panic);
    luaL_openlibs(L);
    lua_setexdata(L, nullptr);
    lua_setexdata2(L, nullptr);
    if (options.memory_max) vm->memory = std::make_unique<MemoryLimit>(L, options.memory_max);
    lua_newtable(L);
    vm->coroutines_ref_ = luaL_ref(L, LUA_REGISTRYINDEX);
    vm->idle_max_ = options.coroutines_max;
    vm->set_paths(options);
    vm->install_api();
    vm->install_searcher();
    vm->load_core(*options.log);
    vm->guard_globals();
    lua_settop(L, 0);
    // Machine code made while loading is of no use to handlers.
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_FLUSH);
    return vm;
}

LuaVm::~LuaVm() {
    while (LuaTask* task = tasks.pop_front()) destroy_task(*task);
    stop_limits(*this);
    if (current_ == this) current_ = nullptr;
    if (L) lua_close(L);
}

void LuaVm::set_paths(const Options& options) {
    lua_getglobal(L, "package");
    auto set = [&](const char* field, const std::string& path) {
        if (path.empty()) return;
        lua_getfield(L, -1, field);
        std::string old = lua_tostring(L, -1);
        push_slice(L, expand_path(path, old, options.prefix));
        lua_setfield(L, -3, field);
        lua_pop(L, 1);
    };
    set("path", options.package_path);
    set("cpath", options.package_cpath);
    lua_pop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "ffi");
    lua_call(L, 1, 0);
}

// With `lua_compat openresty` every C function goes through this: its own is the first upvalue.
static int checked_call(lua_State* L) {
    auto& entry = *static_cast<const LuaFunction*>(lua_touserdata(L, lua_upvalueindex(1)));
    LuaTask* task = find_task(L);
    if (task && !(task->phase_bit() & entry.phases)) return refuse(L, *task);
    return entry.function(L);
}

void LuaVm::install_api() {
    lua_createtable(L, 0, 120);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaded");
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "ngx");
    lua_pop(L, 2);
    lua_setglobal(L, "ngx");
    for (const LuaApi* api : lua_apis()) {
        for (const LuaFunction& entry : api->functions) {
            if (compat_openresty() && entry.phases != in_all) {
                install_function(L, entry.name, checked_call, const_cast<LuaFunction*>(&entry));
            } else {
                install_function(L, entry.name, entry.function);
            }
        }
    }
    for (const LuaApi* api : lua_apis()) {
        if (api->install) api->install(L);
        lua_settop(L, 0);
    }
}


void LuaVm::install_searcher() { install_embedded_modules(L); }

static void load_module(lua_State* L, const char* name, const core::LogContext& log) {
    lua_getglobal(L, "require");
    lua_pushstring(L, name);
    if (lua_pcall(L, 1, 1, 0) == 0) return;
    const char* why = lua_tostring(L, -1);
    LOG(log, alert, 0, "failed to load the '%s' module (reason: %s)", name, why ? why : "?");
}

void LuaVm::load_core(const core::LogContext& log) {
    load_module(L, "resty.core", log);
    if (!compat_openresty()) load_module(L, "resty.core.stdlib", log);
}

void LuaVm::guard_globals() {
    lua_getfield(L, LUA_GLOBALSINDEX, "ngx");
    lua_getfield(L, -1, "get_phase");
    bool loaded = !lua_isnil(L, -1);
    lua_settop(L, 0);
    if (loaded) run_text(L, guard_text, sizeof guard_text - 1, "=_G write guard", 0);
}

// ---- coroutines ----

LuaVm::Coroutine LuaVm::take_coroutine() {
    if (!idle_.empty()) {
        Coroutine coroutine = idle_.back();
        idle_.pop_back();
        return coroutine;
    }
    lua_State* fresh = lua_newthread(L);
    int reference = anchor(L);
    lua_pop(L, 1);
    return {fresh, reference};
}

void LuaVm::give_back(Coroutine coroutine, bool clean) {
    if (idle_.size() >= idle_max_) return release(coroutine.anchor);
    if (clean) lua_settop(coroutine.L, 0);
    else lua_resetthread(L, coroutine.L);
    lua_setexdata(coroutine.L, nullptr);
    idle_.push_back(coroutine);
}

int LuaVm::anchor(lua_State* from) {
    lua_rawgeti(from, LUA_REGISTRYINDEX, coroutines_ref_);
    lua_pushvalue(from, -2);
    int reference = luaL_ref(from, -2);
    lua_pop(from, 1);
    return reference;
}

void LuaVm::release(int anchor) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, coroutines_ref_);
    luaL_unref(L, -1, anchor);
    lua_pop(L, 1);
}

void LuaVm::release_context(int ctx_ref) {
    lua_getfield(L, LUA_REGISTRYINDEX, "ngx_lua_ctx_tables");
    if (lua_istable(L, -1)) luaL_unref(L, -1, ctx_ref);
    lua_pop(L, 1);
}

// ---- on the main thread ----

bool call_main(lua_State* L, const core::LogContext& log, const char* prefix) {
    int base = lua_gettop(L);
    lua_pushcfunction(L, traceback_handler);
    lua_insert(L, base);
    int status = lua_pcall(L, 0, 0, base);
    lua_remove(L, base);
    if (status) {
        const char* message = lua_tostring(L, -1);
        std::string text = std::string(prefix) + " error: " + (message ? message : "unknown error");
        core::log_text(log, core::Level::error, 0, text);
        lua_pop(L, 1);
    }
    lua_gc(L, LUA_GCCOLLECT, 0);
    return status == 0;
}

namespace {
int destroyed = 0;
struct Witness { ~Witness() { ++destroyed; } };
int raise_over_witness(lua_State* L) {
    Witness witness;
    return luaL_error(L, "unwinding");
}
}  // namespace

bool errors_unwind() {
    lua_State* L = luaL_newstate();
    if (!L) return false;
    destroyed = 0;
    bool raised = lua_cpcall(L, raise_over_witness, nullptr) != 0;
    lua_close(L);
    return raised && destroyed == 1;
}

}  // namespace lua
