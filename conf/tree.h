// A parsed configuration: directives as they stand in the files, before anyone has said what they
// mean. Made by the parser, read by the binder and by directives that own a block (map, types).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/slice.h"

namespace conf {

// Where something stands. `file` is owned by the Tree.
struct Place {
    const std::string* file = nullptr;
    int line = 0;                         // of the closing ";" or "{", as nginx reports it
    int first_line = 0;                   // of the first word; 0: the same line
};

struct Node {
    std::string name;                     // first word
    std::vector<std::string> args;        // further words, unquoted and unescaped
    std::vector<bool> quoted;             // per argument: was it in quotes ('' is an argument too)
    Place place;
    bool has_block = false;
    int end_line = 0;                     // of the "}" of a block
    std::vector<Node> children;           // of a { } block
    bool is_cut = false;                  // a syntax error ended the reading inside this block
    bool is_lua = false;                  // a *_by_lua_block: args.back() is the body…
    int lua_line = 0;                     // …whose first byte stands on this line

    core::Slice arg(size_t index) const { return args[index]; }
};

struct Tree {
    std::vector<Node> nodes;
    // What ended the reading; `nodes` holds what came before it. nginx reads and applies line by
    // line: an error of meaning further up wins, so the binder looks at these nodes all the same.
    std::optional<core::Error> syntax_error;
    std::vector<std::unique_ptr<std::string>> files;    // paths, in order of reading
    std::vector<std::unique_ptr<std::string>> texts;    // their contents, same order (for -T)
    // Texts given as options, the same way: they are not files, so -T leaves them out.
    std::vector<std::unique_ptr<std::string>> option_names;
    std::vector<std::unique_ptr<std::string>> option_texts;
};

// "text in /path/file:12" (or "text in command line"), and below it the lines that stand there.
std::string located(const Tree& tree, const Place& place, const std::string& text);
// Whether `text` already says where: errors travel up through several hands.
bool is_located(const Tree& tree, const std::string& text);
// " in /path/file:12", empty for an unknown place.
std::string place_suffix(const Place& place);

// The name that stands for the -g option's text in messages.
inline constexpr const char* command_line_name = "command line";

}  // namespace conf
