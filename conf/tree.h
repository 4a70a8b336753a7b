// A parsed configuration: directives as they stand in the files, before anyone has said what they
// mean. Made by the parser, read by the binder and by directives that own a block (map, types).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/slice.h"

namespace conf {

// Where something stands. `file` is owned by the Tree.
struct Place {
    const std::string* file = nullptr;
    int line = 0;
};

struct Node {
    std::string name;                     // first word
    std::vector<std::string> args;        // further words, unquoted and unescaped
    std::vector<bool> quoted;             // per argument: was it in quotes ('' is an argument too)
    Place place;
    bool has_block = false;
    std::vector<Node> children;           // of a { } block
    bool is_lua = false;                  // a *_by_lua_block: args.back() is the body…
    int lua_line = 0;                     // …whose first byte stands on this line

    core::Slice arg(size_t index) const { return args[index]; }
};

struct Tree {
    std::vector<Node> nodes;
    std::vector<std::unique_ptr<std::string>> files;    // paths, in order of reading
    std::vector<std::unique_ptr<std::string>> texts;    // their contents, same order (-T prints them)
};

}  // namespace conf
