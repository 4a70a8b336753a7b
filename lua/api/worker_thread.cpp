// ngx.run_worker_thread: a function of a Lua module, run by a thread of a pool in a Lua machine of
// its own, while the light thread that asked for it waits. Arguments and results are copied.
//
// A machine belongs to one job at a time: the loop puts the arguments on its stack, the pool's
// thread runs it, the loop takes the results. Nothing else of the server may be touched in there
// but the functions listed below.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/threads.h"
#include "lua/api/ffi.h"
#include "lua/conf.h"
#include "lua/op.h"
#include "lua/vm.h"
#include "lua/vm_parts.h"
#include "server/worker.h"

namespace lua {
namespace {

// What a thread's code finds in `ngx`: topics as a whole, single functions, Lua modules.
constexpr core::Slice thread_topics[] = {"consts", "config", "string", "shdict"};
constexpr core::Slice thread_functions[] = {"ngx.encode_args", "ngx.decode_args"};
constexpr const char* thread_modules[] = {"resty.core.hash", "resty.core.base64",
                                          "resty.core.shdict"};

// ---- machines ----

struct Machine {
    lua_State* L = luaL_newstate();
    bool ready = false;               // set up, which the first job does in its thread
    bool broken = false;              // that failed

    Machine() = default;
    Machine(const Machine&) = delete;
    Machine& operator=(const Machine&) = delete;
    ~Machine() {
        if (L) lua_close(L);
    }
};

struct Machines {
    std::vector<std::unique_ptr<Machine>> idle;
    int64_t count = 0;

    std::unique_ptr<Machine> take() {
        if (!idle.empty()) {
            auto machine = std::move(idle.back());
            idle.pop_back();
            return machine;
        }
        if (count >= main_conf().worker_thread_vm_pool_size) return nullptr;
        auto machine = std::make_unique<Machine>();
        if (!machine->L) return nullptr;
        ++count;
        return machine;
    }

    void give_back(std::unique_ptr<Machine> machine) {
        if (machine->broken) {
            --count;
            return;
        }
        lua_settop(machine->L, 0);
        lua_gc(machine->L, LUA_GCCOLLECT, 0);
        idle.push_back(std::move(machine));
    }
};

Machines& machines() {
    static auto& all = *new Machines;
    return all;
}

// ---- copying between machines ----

constexpr int copy_depth_max = 100;
constexpr char too_deep[] =
    "suspicious circular references, table depth exceed max depth: 100";

const char* copy(lua_State* from, lua_State* to, int index, int depth);

const char* copy_table(lua_State* from, lua_State* to, int index, int depth) {
    constexpr int slots = 4;
    if (depth >= copy_depth_max) return too_deep;
    if (!lua_checkstack(from, slots) || !lua_checkstack(to, slots)) return "stack overflow";
    if (index < 0) index = lua_gettop(from) + index + 1;
    lua_newtable(to);
    lua_pushnil(from);
    while (lua_next(from, index)) {
        const char* why = copy(from, to, -2, depth + 1);
        if (!why) why = copy(from, to, -1, depth + 1);
        if (why) return why;
        lua_rawset(to, -3);
        lua_pop(from, 1);
    }
    return nullptr;
}

// Pushes a copy of the value. What stays on the stacks after a failure is the caller's to remove.
const char* copy(lua_State* from, lua_State* to, int index, int depth) {
    switch (lua_type(from, index)) {
    case LUA_TNIL: lua_pushnil(to); return nullptr;
    case LUA_TBOOLEAN: lua_pushboolean(to, lua_toboolean(from, index)); return nullptr;
    case LUA_TLIGHTUSERDATA: lua_pushlightuserdata(to, lua_touserdata(from, index)); return nullptr;
    case LUA_TNUMBER: lua_pushnumber(to, lua_tonumber(from, index)); return nullptr;
    case LUA_TSTRING: push_slice(to, check_slice(from, index)); return nullptr;
    case LUA_TTABLE: return copy_table(from, to, index, depth);
    case LUA_TFUNCTION: return "unsupported Lua type: LUA_TFUNCTION";
    case LUA_TUSERDATA: return "unsupported Lua type: LUA_TUSERDATA";
    case LUA_TTHREAD: return "unsupported Lua type: LUA_TTHREAD";
    default: return "unsupported Lua type";
    }
}

// Copies the values first…last; null, or why one of them cannot be copied: then none is.
const char* copy_all(lua_State* from, lua_State* to, int first, int last) {
    int top_from = lua_gettop(from), top_to = lua_gettop(to);
    const char* why = nullptr;
    if (last >= first && !lua_checkstack(to, last - first + 1)) why = "stack overflow";
    for (int index = first; index <= last && !why; ++index) why = copy(from, to, index, 1);
    lua_settop(from, top_from);
    if (why) lua_settop(to, top_to);
    return why;
}

// Out of memory in the machine is an error of the job: its stack is written under protection.
struct Copying {
    lua_State* from;
    int first, last;
    const char* why;
};

int copy_protected(lua_State* to) {
    auto& copying = *static_cast<Copying*>(lua_touserdata(to, 1));
    lua_settop(to, 0);
    copying.why = copy_all(copying.from, to, copying.first, copying.last);
    return lua_gettop(to);
}

const char* copy_arguments(lua_State* from, lua_State* to, int first, int last) {
    Copying copying{from, first, last, nullptr};
    lua_pushcfunction(to, copy_protected);
    lua_pushlightuserdata(to, &copying);
    if (lua_pcall(to, 1, LUA_MULTRET, 0) != 0) return "not enough memory";
    return copying.why;
}

// ---- the job, in the pool's thread ----

struct Job {
    std::unique_ptr<Machine> machine;
    std::string path, cpath;          // package.path and .cpath of the asker's machine
    std::string module, function;
    bool failed = false;              // the machine's stack holds an error, not results

    ~Job() { machines().give_back(std::move(machine)); }
    void run();
};

bool listed(core::Slice name, std::span<const core::Slice> list) {
    return std::find(list.begin(), list.end(), name) != list.end();
}

void install_topics(lua_State* L) {
    for (const LuaApi* api : lua_apis()) {
        bool whole = listed(api->name, thread_topics);
        for (const LuaFunction& entry : api->functions) {
            if (whole || listed(entry.name, thread_functions)) {
                install_function(L, entry.name, entry.function);
            }
        }
    }
    for (const LuaApi* api : lua_apis()) {
        if (api->install && listed(api->name, thread_topics)) api->install(L);
    }
}

// Called under protection, with the job as its argument.
int set_up(lua_State* L) {
    auto& job = *static_cast<Job*>(lua_touserdata(L, 1));
    luaL_openlibs(L);
    lua_setexdata(L, nullptr);
    lua_getglobal(L, "package");
    push_slice(L, job.path);
    lua_setfield(L, -2, "path");
    push_slice(L, job.cpath);
    lua_setfield(L, -2, "cpath");
    lua_newtable(L);
    lua_setglobal(L, "ngx");
    install_topics(L);
    install_embedded_modules(L);
    for (const char* name : thread_modules) {
        lua_getglobal(L, "require");
        lua_pushstring(L, name);
        lua_call(L, 1, 0);
    }
    return 0;
}

int raise_text(lua_State* L, const char* text) {
    lua_pushstring(L, text);
    return lua_error(L);
}

// (job, arguments…) → what the function returns.
int call(lua_State* L) {
    auto& job = *static_cast<Job*>(lua_touserdata(L, 1));
    lua_remove(L, 1);
    lua_getglobal(L, "require");
    push_slice(L, job.module);
    lua_call(L, 1, 1);
    if (!lua_istable(L, -1)) return raise_text(L, "invalid lua module");
    lua_getfield(L, -1, job.function.c_str());
    if (!lua_isfunction(L, -1)) return raise_text(L, "invalid function");
    lua_insert(L, 1);
    lua_pop(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

void Job::run() {
    lua_State* L = machine->L;
    if (!machine->ready) {
        lua_pushcfunction(L, set_up);
        lua_pushlightuserdata(L, this);
        machine->ready = lua_pcall(L, 1, 0, 0) == 0;
        machine->broken = !machine->ready;
        failed = machine->broken;
        if (failed) return;
    }
    int arguments = lua_gettop(L);
    lua_pushcfunction(L, call);
    lua_insert(L, 1);
    lua_pushlightuserdata(L, this);
    lua_insert(L, 2);
    failed = lua_pcall(L, arguments + 1, LUA_MULTRET, 0) != 0;
}

// ---- waiting for it ----

class ThreadWait final : public Op {
  public:
    ThreadWait(LuaThread& thread, core::ThreadPool& pool, std::shared_ptr<Job> job)
        : Op(thread), job_(job) {
        auto submitted = pool.submit([job] { job->run(); }, [this] { complete(); });
        if (submitted) {
            task_ = std::move(*submitted);
            return;
        }
        job_ = nullptr;
        complete();
    }
    const char* name() const override { return "worker thread"; }

    int push_results(lua_State* L) override {
        if (!job_) return fail(L, "ngx_thread_task_post failed");
        lua_State* from = job_->machine->L;
        if (job_->failed) {
            const char* text = lua_tostring(from, -1);
            return fail(L, text ? text : "unknown error");
        }
        int top = lua_gettop(L), results = lua_gettop(from);
        lua_pushboolean(L, 1);
        const char* why = copy_all(from, L, 1, results);
        if (!why) return results + 1;
        lua_settop(L, top);
        lua_pushboolean(L, 0);
        lua_pushfstring(L, "%s in the return value", why);
        return 2;
    }

  private:
    static int fail(lua_State* L, const char* why) {
        lua_pushboolean(L, 0);
        lua_pushstring(L, why);
        return 2;
    }
    std::shared_ptr<Job> job_;        // the pool has it too: both let go of it in the loop
    core::Task task_;
};

int refuse_call(lua_State* L, const char* why) {
    lua_pushboolean(L, 0);
    lua_pushstring(L, why);
    return 2;
}

std::string package_field(lua_State* L, const char* name) {
    lua_getglobal(L, "package");
    lua_getfield(L, -1, name);
    const char* text = lua_tostring(L, -1);
    std::string value = text ? text : "";
    lua_pop(L, 2);
    return value;
}

// (pool, module, function, arguments…)
int run_worker_thread(lua_State* L) {
    int count = lua_gettop(L);
    task_of(L);
    if (count < 3) return refuse_call(L, "expecting at least 3 arguments");
    if (!lua_isstring(L, 1)) return refuse_call(L, "threadpool should be a string");
    server::Worker* worker = server::Worker::current();
    core::ThreadPool* pool = worker ? worker->thread_pool(lua_tostring(L, 1)) : nullptr;
    if (!pool) {
        lua_pushboolean(L, 0);
        lua_pushfstring(L, "thread pool %s not found", lua_tostring(L, 1));
        return 2;
    }
    if (!lua_isstring(L, 2)) return refuse_call(L, "module name should be a string");
    if (!lua_isstring(L, 3)) return refuse_call(L, "function name should be a string");
    waiting_thread(L);                // raises where nothing can wait, before a machine is taken
    auto machine = machines().take();
    if (!machine) return refuse_call(L, "no available Lua vm");
    auto job = std::make_shared<Job>();
    job->machine = std::move(machine);
    job->module = lua_tostring(L, 2);
    job->function = lua_tostring(L, 3);
    if (!job->machine->ready) {
        job->path = package_field(L, "path");
        job->cpath = package_field(L, "cpath");
    }
    if (const char* why = copy_arguments(L, job->machine->L, 4, count)) {
        lua_pushboolean(L, 0);
        lua_pushfstring(L, "%s in the argument", why);
        return 2;
    }
    return await<ThreadWait>(L, *pool, std::move(job));
}

constexpr LuaFunction functions[] = {
    {"ngx.run_worker_thread", run_worker_thread, in_yieldable},
};
REGISTER_LUA_API(worker_thread, functions);

}  // namespace
}  // namespace lua
