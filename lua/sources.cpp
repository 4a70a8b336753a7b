// Watching the files that Lua code came from; see sources.h.
#include "lua/sources.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/folder_watcher.h"
#include "core/log.h"
#include "core/reactor.h"
#include "core/text.h"
#include "lua/api.h"
#include "lua/embedded.h"
#include "lua/log_once.h"
#include "lua/source_file.h"
#include "lua/vm.h"

namespace lua {

namespace {

using News = core::FolderWatcher::News;

// How often a file that is being written is looked at again, a millisecond apart.
constexpr int settle_tries = 20;

struct FollowedFile {
    FileStamp stamp;
    FileStamp candidate;           // seen once; taken when it stays so
};

struct FollowedFolder {
    std::string path;              // ends in a slash
    int number = 0;                // at the watcher
    std::map<std::string, FollowedFile, std::less<>> files;
};

void tell_of_changes(void*);

struct Sources {
    LuaVm* vm = nullptr;           // whose modules are followed
    int run_file = LUA_NOREF, file_changed = LUA_NOREF;
    std::unique_ptr<core::FolderWatcher> watcher;
    std::unordered_map<std::string, std::unique_ptr<FollowedFolder>> folders;
    std::vector<FileListener> listeners;
    bool reading = false;              // the watcher tells: no Lua code may run now
    std::vector<std::string> changed;  // what has changed meanwhile
    core::Deferred later{tell_of_changes, nullptr};
};

Sources& sources() {
    static Sources* const instance = new Sources;
    return *instance;
}

// ---- changes ----

void tell_listeners(const std::string& path, bool by_module) {
    for (FileListener listener : sources().listeners) listener(path, by_module);
}

void file_has_changed(const std::string& path) {
    Sources& all = sources();
    if (all.reading) {
        all.changed.push_back(path);
        return core::Reactor::current().at_end(core::Reactor::work, all.later);
    }
    if (all.vm && all.vm == LuaVm::current()) {
        lua_State* L = all.vm->L;
        lua_rawgeti(L, LUA_REGISTRYINDEX, all.file_changed);
        push_slice(L, path);
        if (lua_pcall(L, 1, 0, 0) != 0) {
            LOG(core::process_log(), alert, 0, "following modules failed: %s",
                lua_tostring(L, -1));
            lua_pop(L, 1);
        }
    }
    tell_listeners(path, false);
}

void tell_of_changes(void*) {
    std::vector<std::string> changed = std::move(sources().changed);
    for (const std::string& path : changed) file_has_changed(path);
}

void look(FollowedFolder& folder, const std::string& name, FollowedFile& file, News news) {
    Sources& all = sources();
    FileStamp now = FileStamp::of(folder.path + name);
    if (news != News::entry) {
        if (now == file.stamp) return;
        if (now != file.candidate || news == News::folder) {
            file.candidate = now;
            return all.watcher->expect(folder.number, name,
                                       all.watcher->steady_time(folder.number));
        }
    }
    file.stamp = now;
    file_has_changed(folder.path + name);
}

void tell_folder(FollowedFolder& folder, News news, core::Slice name) {
    if (news == News::folder || name.starts_with("..")) {
        for (auto& [known, file] : folder.files) look(folder, known, file, News::folder);
        return;
    }
    auto at = folder.files.find(name);
    if (at != folder.files.end()) look(folder, at->first, at->second, news);
}

// What has changed is taken up when the turn ends: what is told next may be that it is being
// written once more.
void folder_told(void* argument, News news, core::Slice name) {
    bool before = std::exchange(sources().reading, true);
    tell_folder(*static_cast<FollowedFolder*>(argument), news, name);
    sources().reading = before;
}

std::string absolute(const std::string& path) {
    if (path.starts_with('/')) return path;
    char* here = ::getcwd(nullptr, 0);
    std::string full = std::string(here ? here : "") + "/" + path;
    std::free(here);
    return full;
}

// ---- what modules.lua calls ----

int native_now(lua_State* L) {
    lua_pushnumber(L, double(core::Clock::monotonic_ms()) / 1000);
    return 1;
}

// (path) → the module's text, or nil and why there is none.
int native_read(lua_State* L) {
    std::string path(check_slice(L, 1));
    follow_file(path);
    SourceText source = read_settled(path);
    if (source) {
        push_slice(L, source.text);
        return 1;
    }
    lua_pushnil(L);
    push_slice(L, source.error);
    return 2;
}

// A path as changes are told of.
int native_absolute(lua_State* L) {
    push_slice(L, absolute(std::string(check_slice(L, 1))));
    return 1;
}

int native_being_written(lua_State* L) {
    lua_pushboolean(L, is_being_written(std::string(check_slice(L, 1))));
    return 1;
}

int native_failed(lua_State* L) {
    std::string path = lua_isstring(L, 1) ? std::string(check_slice(L, 1)) : "?";
    report_failure(path, check_slice(L, 2), true);
    return 0;
}

int native_healed(lua_State* L) {
    report_healed(std::string(check_slice(L, 1)));
    return 0;
}

int native_user_changed(lua_State* L) {
    tell_listeners(std::string(check_slice(L, 1)), true);
    return 0;
}

constexpr luaL_Reg natives[] = {
    {"now", native_now},       {"read", native_read},
    {"failed", native_failed}, {"healed", native_healed},
    {"user_changed", native_user_changed}, {"absolute", native_absolute},
    {"being_written", native_being_written},
};

bool run_book_keeper(lua_State* L) {
    for (const EmbeddedModule& module : embedded_modules()) {
        if (module.name != "resty.core.modules") continue;
        std::string name = "@lualib/" + std::string(module.path);
        if (luaL_loadbuffer(L, module.source.data(), module.source.size(), name.c_str()) != 0)
            return false;
        lua_createtable(L, 0, int(std::size(natives)));
        for (const luaL_Reg& native : natives) {
            lua_pushcfunction(L, native.func);
            lua_setfield(L, -2, native.name);
        }
        return lua_pcall(L, 1, 1, 0) == 0;
    }
    lua_pushliteral(L, "it is missing");
    return false;
}

}  // namespace

void follow_modules(LuaVm& vm) {
    Sources& all = sources();
    lua_State* L = vm.L;
    all.vm = nullptr;
    if (!run_book_keeper(L)) {
        LOG(core::process_log(), alert, 0, "failed to load resty.core.modules: %s",
            lua_tostring(L, -1));
        lua_settop(L, 0);
        return;
    }
    all.vm = &vm;
    lua_getfield(L, -1, "run_file");
    all.run_file = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "file_changed");
    all.file_changed = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_settop(L, 0);
}

bool follows_modules(const LuaVm& vm) { return sources().vm == &vm; }

void push_file_runner(lua_State* L) { lua_rawgeti(L, LUA_REGISTRYINDEX, sources().run_file); }

core::FolderWatcher* folder_watcher() { return sources().watcher.get(); }

void add_file_listener(FileListener listener) {
    auto& all = sources().listeners;
    if (std::find(all.begin(), all.end(), listener) == all.end()) all.push_back(listener);
}

void start_watching() {
    Sources& all = sources();
    if (all.watcher) return;
    all.watcher = std::make_unique<core::FolderWatcher>();
    for (auto& [path, folder] : all.folders) {
        folder->number = all.watcher->open(path, true, folder_told, folder.get());
        // What has changed since the master read it.
        for (auto& [name, file] : folder->files) look(*folder, name, file, News::unsure);
    }
}

void stop_watching() {
    sources().watcher.reset();
    sources().folders.clear();
}

void follow_file(const std::string& given) {
    Sources& all = sources();
    std::string path = absolute(given);
    size_t slash = path.rfind('/') + 1;
    std::string where = path.substr(0, slash);
    auto& folder = all.folders[where];
    if (!folder) {
        folder = std::make_unique<FollowedFolder>();
        folder->path = where;
        if (all.watcher)
            folder->number = all.watcher->open(where, true, folder_told, folder.get());
    }
    auto [at, is_new] = folder->files.try_emplace(path.substr(slash));
    if (is_new) at->second.stamp = FileStamp::of(path);
}

bool is_being_written(const std::string& given) {
    Sources& all = sources();
    std::string path = absolute(given);
    size_t slash = path.rfind('/') + 1;
    auto known = all.folders.find(path.substr(0, slash));
    if (!all.watcher || known == all.folders.end()) return false;
    // What is told meanwhile is passed on when the turn ends.
    bool before = std::exchange(all.reading, true);
    all.watcher->poll();
    all.reading = before;
    return all.watcher->is_unsettled(known->second->number, path.substr(slash));
}

SourceText read_settled(const std::string& given) {
    std::string path = absolute(given);
    for (int i = 0;; ++i) {
        SourceText source = read_source(path);
        // What was said before it was read counts as well.
        if (!is_being_written(path) || i == settle_tries) return source;
        ::usleep(1000);
    }
}

void report_failure(const std::string& path, core::Slice why, bool kept) {
    std::string text = "\"" + path + "\" failed";
    if (kept) text += ", its last good version goes on";
    text.append(": ").append(why);
    std::string mark = text + std::to_string(FileStamp::of(path).changed_ns);
    if (first_to_say(mark)) core::log_text(core::process_log(), core::Level::error, 0, text);
}

void report_healed(const std::string& path) {
    std::string text = "\"" + path + "\" works again";
    std::string mark = text + std::to_string(FileStamp::of(path).changed_ns);
    if (first_to_say(mark)) core::log_text(core::process_log(), core::Level::warn, 0, text);
}

}  // namespace lua
