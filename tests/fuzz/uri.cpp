// Fuzzes normalising of request targets: the result never leaves the root, and normalising its
// escaped form again changes nothing. Run by libFuzzer; seeds in seeds/uri/.
#include <cstdlib>

#include "server/http/escape.h"
#include "server/http/uri.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size == 0) return 0;
    bool merge = data[0] & 1;
    core::Slice target(reinterpret_cast<const char*>(data) + 1, size - 1);
    core::Arena arena;
    server::NormalizedUri uri, again;
    if (!server::normalize_uri(target, merge, arena, uri)) return 0;
    if (!uri.path.starts_with('/')) abort();
    for (core::Slice rest = uri.path; !rest.empty();) {
        size_t end = rest.find('/', 1);
        core::Slice segment = rest.substr(1, end == core::Slice::npos ? end : end - 1);
        if (segment == ".." || segment == ".") abort();
        rest = end == core::Slice::npos ? core::Slice{} : rest.substr(end);
    }
    if (merge && uri.path.find("//") != core::Slice::npos) abort();
    core::Slice escaped = server::escape(arena, uri.path, server::Escape::uri);
    if (!server::normalize_uri(escaped, merge, arena, again) || again.path != uri.path) abort();
    core::Slice path = target, args;
    server::split_internal_uri(arena, path, args);
    return 0;
}
