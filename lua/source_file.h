// Reading Lua source files that may change at any time: what a file was when it was read, and its
// text. Used by lua/handler_tree.cpp and lua/sources.cpp.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "core/slice.h"

namespace lua {

// Tells one version of a file from another.
struct FileStamp {
    uint64_t device = 0, inode = 0;
    int64_t size = -1, modified_ns = 0, changed_ns = 0;
    bool operator==(const FileStamp&) const = default;
    explicit operator bool() const { return size >= 0; }

    static FileStamp of(const struct stat& is);
    static FileStamp of(const std::string& path);      // of what it names; none when there is none
};

struct SourceText {
    std::string text;
    FileStamp stamp;
    std::string error;                 // "cannot open …"; empty when it was read
    bool missing = false;              // …because there is none
    explicit operator bool() const { return error.empty(); }
};

// Reads the regular file at `path`. `inside`: the real path of a folder, ending in a slash, which
// the file must lie in wherever links lead; empty: anywhere.
SourceText read_source(const std::string& path, const std::string& inside = {});

// The path without links, "" when there is no such thing.
std::string real_path(const std::string& path);

// "path:LINE: …" → LINE of the first place an error message names; 0 for none.
int line_in(core::Slice message);

}  // namespace lua
