// Comparing entity tags. Called by the not_modified module.
#include "server/http/etag_match.h"

#include "core/text.h"

namespace server {

namespace {

core::Slice skip(core::Slice text, core::Slice what) {
    size_t at = text.find_first_not_of(what);
    return at == core::Slice::npos ? core::Slice{} : text.substr(at);
}

void drop_weak(core::Slice& tag) {
    if (tag.starts_with("W/")) tag.remove_prefix(2);
}

}  // namespace

bool etag_matches(core::Slice list, core::Slice etag, EtagStrength how) {
    if (list == "*") return true;
    if (etag.empty()) return false;
    if (how == EtagStrength::weak) drop_weak(etag);
    while (!list.empty()) {
        if (how == EtagStrength::weak) drop_weak(list);
        if (list.starts_with(etag)) {
            core::Slice rest = skip(list.substr(etag.size()), " \t");
            if (rest.empty() || rest[0] == ',') return true;
        }
        // On to the next tag: past this one's comma.
        size_t comma = list.find(',');
        if (comma == core::Slice::npos) return false;
        list = skip(list.substr(comma), " \t,");
    }
    return false;
}

}  // namespace server
