// balancer_by_lua: the directive's function and the chooser it gives to an upstream group.
#pragma once

#include <memory>

#include "conf/directive.h"

namespace lua {

class LuaChunk;

// For the upstream{} block being bound: `chunk` chooses its servers from now on.
conf::Result<void> add_balancer(std::shared_ptr<LuaChunk> chunk, const conf::Line& line);
// balancer_keepalive N
conf::Result<void> set_balancer_keepalive(const conf::Line& line);

}  // namespace lua
