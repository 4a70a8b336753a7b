// Loading files of handlers; see handler_load.h.
#include "lua/handler_load.h"

#include <deque>
#include <list>
#include <utility>

#include "core/clock.h"
#include "lua/api.h"
#include "lua/conf.h"
#include "lua/memory_limit.h"
#include "lua/sources.h"
#include "lua/vm.h"
#include "server/config.h"

namespace lua {

namespace {

using server::Method;

// A file that failed while it ran may have failed for reasons outside of it: it gets another chance
// so long after the last one.
constexpr int64_t retry_ms = 1000;
// How long files are loaded in the background before others have their turn.
constexpr uint64_t slice_us = 1000;
constexpr int64_t pause_ms = 1;

std::string full_path(const HandlerFile& file) {
    return file.tree ? file.tree->real_folder() + file.path : file.path;
}

void note_failure(HandlerFile& file, core::Slice why, core::Slice stack, bool for_good) {
    std::string said = std::exchange(file.error, std::string(why));
    file.state = HandlerFile::failed;
    file.error_ms = core::Clock::wall_ms();
    file.tried_ms = for_good ? INT64_MAX - retry_ms : core::Clock::monotonic_ms();
    if (file.reported_hash == file.text_hash && said == why) return;
    file.reported_hash = file.text_hash;
    report_failure(full_path(file), std::string(why) + std::string(stack),
                   file.functions != nullptr);
}

int take_function(lua_State* L) { return luaL_ref(L, LUA_REGISTRYINDEX); }

bool take_filter(lua_State* L, HandlerFunctions& functions) {
    if (lua_isfunction(L, -1)) {
        lua_pushvalue(L, -1);
        functions.header = take_function(L);
        return true;
    }
    if (!lua_istable(L, -1)) return false;
    for (auto [name, place] : {std::pair{"header", &functions.header},
                               std::pair{"body", &functions.body}}) {
        lua_getfield(L, -1, name);
        if (lua_isfunction(L, -1)) *place = take_function(L);
        else lua_pop(L, 1);
    }
    return functions.header != LUA_NOREF || functions.body != LUA_NOREF;
}

bool is_method_name(core::Slice name) {
    if (name.empty()) return false;
    for (char c : name) {
        if (!(c >= 'A' && c <= 'Z') && c != '-') return false;
    }
    return true;
}

void add_allowed(HandlerFunctions& functions, core::Slice name) {
    if (!functions.allow.empty()) functions.allow += ", ";
    functions.allow += name;
}

// The functions of a table by method. Says what is wrong with it, or nothing.
std::string take_methods(lua_State* L, HandlerFunctions& functions) {
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        if (!lua_isfunction(L, -1)) continue;
        if (lua_type(L, -2) != LUA_TSTRING || !is_method_name(check_slice(L, -2)))
            return "the table it returned has a function that is no method: keys are GET, POST, …";
        core::Slice name = check_slice(L, -2);
        Method method = server::parse_method(name);
        lua_pushvalue(L, -1);
        int function = take_function(L);
        if (method == Method::unknown) functions.others.emplace_back(name, function);
        else functions.by_method[size_t(method)] = function;
    }
    bool get = functions.by_method[size_t(Method::get)] != LUA_NOREF;
    bool any = !functions.others.empty();
    for (int i = 1; i < HandlerFunctions::methods; ++i) {
        bool has = functions.by_method[i] != LUA_NOREF || (Method(i) == Method::head && get);
        if (has || Method(i) == Method::options) add_allowed(functions, method_name(Method(i)));
        any = any || has;
    }
    for (auto& [name, function] : functions.others) add_allowed(functions, name);
    return any ? "" : "the table it returned has no functions";
}

// Takes the value on top of the stack, which the file returned. Says what is wrong with it.
std::string take_value(lua_State* L, HandlerFile::Kind kind, HandlerFunctions& functions) {
    if (kind == HandlerFile::filter) {
        if (take_filter(L, functions)) return "";
        return std::string("it returned ") + luaL_typename(L, -1) +
               " where a function or a table with functions \"header\" and \"body\" is expected";
    }
    if (lua_isfunction(L, -1)) {
        lua_pushvalue(L, -1);
        functions.any = take_function(L);
        return "";
    }
    if (kind == HandlerFile::handler && lua_istable(L, -1)) return take_methods(L, functions);
    return std::string("it returned ") + luaL_typename(L, -1) + " where a function" +
           (kind == HandlerFile::handler ? " or a table of functions by method" : "") +
           " is expected";
}

// The runner's results are on the stack: true and the value, or false, why and the stack's trace.
void settle(HandlerFile& file, lua_State* L, uint32_t changes) {
    if (!lua_toboolean(L, 1)) {
        std::string stack = lua_isstring(L, 3) ? std::string(check_slice(L, 3)) : "";
        return note_failure(file, check_slice(L, 2), stack, false);
    }
    lua_settop(L, 2);
    auto functions = std::make_shared<HandlerFunctions>(LuaVm::current());
    std::string wrong = take_value(L, file.kind, *functions);
    if (!wrong.empty()) return note_failure(file, wrong, "", true);
    if (!file.error.empty()) report_healed(full_path(file));
    file.functions = std::move(functions);
    file.error.clear();
    file.rerun = false;
    file.loaded_ms = core::Clock::wall_ms();
    ++file.version;
    if (file.changes == changes) file.state = HandlerFile::ready;
}

// Its text, when it is there, nobody writes it and it is not what it was. Empty otherwise.
std::string newest_text(HandlerFile& file) {
    if (file.tree->real_folder().empty()) return {};
    core::FolderWatcher& watcher = *file.tree->watcher();
    SourceText source = read_source(full_path(file), file.tree->real_folder());
    watcher.poll();                  // what was said before it was read counts as well
    if (!file.tree || watcher.is_unsettled(file.folder, file.name())) return {};
    if (source.missing) return {};   // the index will know in a moment
    if (!source) {
        note_failure(file, source.error, "", false);
        return {};
    }
    size_t hash = std::hash<core::Slice>{}(source.text);
    if (file.functions && file.text_hash == hash && !file.rerun && file.error.empty()) {
        file.state = HandlerFile::ready;
        return {};
    }
    file.text_hash = hash;
    return source.text.empty() ? " " : std::move(source.text);
}

LuaTask& make_task(server::Request* request) {
    LuaTask& task = create_task(*LuaVm::current(),
                                request ? LuaPhase::content : LuaPhase::timer, request);
    if (!request) {
        conf::Level& level = *server::Configuration::current().http_level();
        task.conf = static_cast<const LuaConf*>(level.get(lua_module.index));
    }
    return task;
}

}  // namespace

bool wants_loading(const HandlerFile& file) {
    if (file.loading && file.functions) return false;
    switch (file.state) {
    case HandlerFile::ready: return false;
    case HandlerFile::changed: return true;
    case HandlerFile::failed: return core::Clock::monotonic_ms() - file.tried_ms >= retry_ms;
    }
    return false;
}

LuaTask* begin_loading(HandlerFile& file, server::Request* request) {
    if (!file.tree) return nullptr;
    std::string path = full_path(file), text = newest_text(file);
    if (text.empty()) return nullptr;
    LuaTask& task = make_task(request);
    lua_State* L = task.entry->L;
    push_file_runner(L);
    push_slice(L, path);
    if (luaL_loadbufferx(L, text.data(), text.size(), ("@" + path).c_str(), "t") == 0) {
        ++file.loading;
        return &task;
    }
    note_failure(file, check_slice(L, -1), "", true);
    task.end = TaskEnd::failed;
    destroy_task(task);
    return nullptr;
}

void settle_loading(HandlerFile& file, LuaTask& task, uint32_t changes) {
    --file.loading;
    if (task.end == TaskEnd::returned) return settle(file, task.entry->L, changes);
    note_failure(file, "it ended its own loading", "", false);
}

// ---- in the background ----

namespace {

struct BackgroundLoading {
    std::shared_ptr<HandlerFile> file;
    uint32_t changes;
};

void load_some(void*);

struct Background {
    std::deque<std::weak_ptr<HandlerFile>> queue;
    std::list<BackgroundLoading> waiting;          // their tasks wait for something
    core::Timer timer{load_some, nullptr};
};

Background& background() {
    static Background* const instance = new Background;
    return *instance;
}

void background_done(LuaTask& task, void* argument) {
    auto* loading = static_cast<BackgroundLoading*>(argument);
    settle_loading(*loading->file, task, loading->changes);
    background().waiting.remove_if([&](auto& entry) { return &entry == loading; });
}

void load_alone(const std::shared_ptr<HandlerFile>& file) {
    if (file->state != HandlerFile::changed || file->loading) return;
    uint32_t changes = file->changes;
    LuaTask* task = begin_loading(*file, nullptr);
    if (!task) return;
    if (run_task(*task, 2) == TaskEnd::running) {
        task->done = background_done;
        task->argument = &background().waiting.emplace_back(BackgroundLoading{file, changes});
        return;
    }
    settle_loading(*file, *task, changes);
    destroy_task(*task);
}

void load_some(void*) {
    LimitedMemory unlimited(false);
    Background& all = background();
    uint64_t began = core::Clock::precise_us();
    while (!all.queue.empty()) {
        std::shared_ptr<HandlerFile> file = all.queue.front().lock();
        all.queue.pop_front();
        if (file && LuaVm::current()) load_alone(file);
        if (core::Clock::precise_us() - began < slice_us) continue;
        if (!all.queue.empty()) all.timer.set(pause_ms);
        return;
    }
}

}  // namespace

void load_in_background(const std::shared_ptr<HandlerFile>& file) {
    Background& all = background();
    all.queue.push_back(file);
    if (!all.timer.pending()) all.timer.set(pause_ms);
}

void end_background_loading() {
    Background& all = background();
    all.queue.clear();
    all.waiting.clear();
    all.timer.cancel();
}

}  // namespace lua
