// Request targets: decoding and normalising the path as nginx does.
#pragma once

#include "core/arena.h"
#include "core/slice.h"

namespace server {

struct NormalizedUri {
    core::Slice path;       // decoded; a slice of the target itself when nothing had to be changed
    core::Slice args;       // behind '?', as received
    bool plain = false;     // path is the target's own text
};

// Splits an origin-form target ("/a%20b/../c?x#y") at '?' and '#', decodes %XX, resolves "." and
// "..", and merges slashes when asked to. False: malformed, climbs above the root, or holds %00.
bool normalize_uri(core::Slice target, bool merge_slashes, core::Arena& arena, NormalizedUri& to);

// A URI that a header or a script names for an internal redirect or a subrequest: splits the
// arguments off and decodes %XX. False when it is unsafe: empty, with ".." segments or a NUL byte.
bool split_internal_uri(core::Arena& arena, core::Slice& uri, core::Slice& args);

}  // namespace server
