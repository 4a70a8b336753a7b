// set_by_lua's place in the configuration. Called by lua/directives.cpp.
#pragma once

#include <memory>
#include <vector>

#include "conf/directive.h"
#include "lua/code_cache.h"

namespace lua {

// What a configuration keeps alive: every chunk (for -t), and the handlers of set_by_lua.
struct LuaHandlers {
    std::vector<std::shared_ptr<LuaChunk>> chunks;
    std::vector<std::shared_ptr<void>> keep;
};

// Adds the step to the script of where the directive stands.
conf::Result<void> add_set_by_lua(const conf::Line& line, LuaHandlers& handlers,
                                  LuaChunk::Form form);

}  // namespace lua
