// Reads configuration files into a Tree: nginx's grammar with quoting and escapes, comments,
// includes (globs), and *_by_lua_block bodies lexed as Lua.
#pragma once

#include <string>

#include "conf/tree.h"
#include "core/result.h"

namespace conf {

struct ParseOptions {
    std::string prefix;        // relative includes are relative to the main file's folder
    std::string conf_prefix;
    int include_depth_max = 32;
};

// Errors in nginx's wording: `unexpected "}" in /path/file:12`, with the line itself below.
core::Result<void> parse_file(const std::string& path, const ParseOptions& options, Tree& tree);
// Appends directives given as text (-g): places name "command line".
core::Result<void> parse_text(core::Slice text, const std::string& name,
                              const ParseOptions& options, Tree& tree);
// For `include` inside a block that its owner reads itself (map, geo, types): the nodes of the
// files that `pattern` names.
core::Result<void> parse_include(core::Slice pattern, const Place& place,
                                 const ParseOptions& options, Tree& tree, std::vector<Node>& to);

}  // namespace conf
