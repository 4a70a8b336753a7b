// Reads configuration files into a Tree: nginx's grammar with quoting and escapes, comments,
// includes (globs), and *_by_lua_block bodies lexed as Lua.
#pragma once

#include <string>

#include "conf/tree.h"
#include "core/result.h"

namespace conf {

class Environment;             // conf/environment.h

struct ParseOptions {
    std::string prefix;        // -p, with a trailing slash
    std::string conf_prefix;   // relative includes are relative to the main file's folder
    int include_depth_max = 32;
    Environment* environment = nullptr;   // null: `environment` is a directive as any other
};

// Errors in nginx's wording: `unexpected "}" in /path/file:12`, with the line itself below. They
// are kept in tree.syntax_error too: binding what was read before tells whether that was right.
core::Result<void> parse_file(const std::string& path, const ParseOptions& options, Tree& tree);
// Appends directives given as an option (-g): places name "command line", blocks are refused.
core::Result<void> parse_text(core::Slice text, const std::string& name,
                              const ParseOptions& options, Tree& tree);
// Appends `text` as if a file `name` held it (tests, generated configuration).
core::Result<void> parse_source(core::Slice text, const std::string& name,
                                const ParseOptions& options, Tree& tree);
// The nodes of the files that `pattern` names. The parser expands `include` inside every block
// itself, those of map, geo and types too; this is for includes that are made up later.
core::Result<void> parse_include(core::Slice pattern, const Place& place,
                                 const ParseOptions& options, Tree& tree, std::vector<Node>& to);

}  // namespace conf
