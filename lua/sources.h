// Files that Lua code came from, and what follows when one of them changes: required modules are
// loaded anew (lualib/resty/core/modules.lua keeps the books), and so are handlers made with them.
// One for each process, made with its Lua machine; a worker watches the files. Called by
// directives.cpp, handler_run.cpp and code_cache.cpp.
#pragma once

#include <string>

#include <lua.hpp>

#include "core/slice.h"

namespace core {
class FolderWatcher;
}

namespace lua {

class LuaVm;

// In the master: follows what this machine requires from now on.
void follow_modules(LuaVm& vm);
// Is that so for this machine?
bool follows_modules(const LuaVm& vm);
// In a worker, before it serves: begins to watch; and its end.
void start_watching();
void stop_watching();
// The worker's watcher; null before start_watching().
core::FolderWatcher* folder_watcher();

// Tells a listener of settled changes of one more file. Asking twice is once.
void follow_file(const std::string& path);
// Called for each of them: a by_lua file, or one that a changed module was required by.
using FileListener = void (*)(const std::string& path, bool by_module);
void add_file_listener(FileListener listener);
// Reads a file at a moment when nobody writes it, waiting a little for that. The text, or an error.
struct SourceText;
SourceText read_settled(const std::string& path);
// Is it being written just now? Its listeners are told when that is over. Whoever has an older
// version goes on with it meanwhile and need not wait.
bool is_being_written(const std::string& path);

// Pushes a function: (path, chunk) → true, value or false, message, stack.
void push_file_runner(lua_State* L);

// One line about a file whose newest version is no good, once for all workers; and about its being
// good again. `kept`: its last good version goes on.
void report_failure(const std::string& path, core::Slice why, bool kept);
void report_healed(const std::string& path);

}  // namespace lua
