// Loading files of lua_handlers: reading, compiling and running one, and keeping what it returned.
// All files are loaded in the background, soon after the start and after each change, so that every
// worker has a good version to fall back on; a request that comes earlier loads what it needs
// itself (handler_run.cpp).
#pragma once

#include <memory>

#include "lua/handler_tree.h"
#include "lua/thread.h"

namespace lua {

// Is there something newer than what it has, or is it time to try it again?
bool wants_loading(const HandlerFile& file);
// A task that will run the newest version: run_task(task, 2), then settle_loading(). Null: nothing
// is to be run, the file is ready or has failed. `request` may be null.
LuaTask* begin_loading(HandlerFile& file, server::Request* request);
// The task is over; `changes` is the file's when it was begun.
void settle_loading(HandlerFile& file, LuaTask& task, uint32_t changes);

void load_in_background(const std::shared_ptr<HandlerFile>& file);
void end_background_loading();

}  // namespace lua
