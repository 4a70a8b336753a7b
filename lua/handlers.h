// Handlers dropped on disk (lua_handlers), as others may see them: the folders that are served and
// the files in them, and adding and removing folders while the server runs. Everything here is
// about this worker: each one watches the folders itself. Called from the loop.
#pragma once

#include <cstdint>
#include <functional>

#include "core/result.h"
#include "core/slice.h"

namespace lua {

struct HandlerFolderInfo {
    core::Slice prefix;              // "/api/"
    core::Slice folder;              // as configured, made absolute
    size_t files = 0;                // handlers, _access.lua and _filter.lua among them
    bool configured = false;         // by a directive; cannot be removed
    bool polled = false;             // looked at every second: the kernel does not watch it
};
void for_each_handler_folder(const std::function<void(const HandlerFolderInfo&)>& visit);

struct HandlerFileInfo {
    core::Slice prefix;              // of its folder
    core::Slice path;                // within it: "users/[id].lua"
    uint32_t version = 0;            // how many versions this worker has loaded; 0: not used yet
    int64_t modified_ms = 0;         // wall clock, of the newest version on disk
    int64_t loaded_ms = 0;           // wall clock, when what is served was loaded; 0: nothing is
    core::Slice error;               // what is wrong with the newest version; empty: nothing known
    int line = 0;                    // …and where; 0: not known
    int64_t error_ms = 0;            // when that was found
};
// In no particular order. The slices are good until `visit` returns.
void for_each_handler_file(const std::function<void(const HandlerFileInfo&)>& visit);

// Whether folders can be added while this configuration runs (it then has a Lua machine, and each
// request costs a few instructions more). Called while the configuration is bound, or by a module's
// prepare().
void want_handlers();
// Prepares to serve `folder` (absolute, or relative to the prefix directory) below `prefix` on
// every server; an empty folder: to end that. All is checked and indexed now; the function that
// comes back makes it so, from the next request on, and cannot fail; until then nothing has
// changed. In a process without requests (the master) it only checks. What was added replaces what
// was added before for the same prefix; it wins over locations of the same or a shorter prefix,
// not over exact and regular-expression ones; among several the longest prefix counts. Requests
// that run go on.
core::Result<std::function<void()>> stage_handlers(core::Slice prefix, core::Slice folder);
// The same at once, in this worker.
core::Result<void> add_handlers(core::Slice prefix, core::Slice folder);
core::Result<void> remove_handlers(core::Slice prefix);

}  // namespace lua
