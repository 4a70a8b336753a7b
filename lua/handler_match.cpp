// Which file of a HandlerTree answers a path: for each segment a file or folder of that name is
// tried first, then "[name]", then "[...name].lua", and the first way that leads to a file counts.
// No folder is looked at twice, so the cost is bounded by the size of the tree.
#include "lua/handler_tree.h"

namespace lua {

bool HandlerTree::find(core::Slice uri, HandlerMatch& match) {
    if (!root_) return false;
    if (uri.starts_with(prefix_)) return find_in(*root_, uri.substr(prefix_.size()), match, 0);
    return uri.size() + 1 == prefix_.size() && core::Slice(prefix_).starts_with(uri) &&
           find_in(*root_, {}, match, 0);
}

bool HandlerTree::find_in(HandlerFolder& folder, core::Slice rest, HandlerMatch& match,
                          int depth) {
    if (!folder.routes_known) [[unlikely]] folder.know_routes();
    if (rest.empty()) {
        if (!folder.index) return false;
        match.file = folder.index;
        match.folder = &folder;
        return true;
    }
    size_t slash = rest.find('/');
    core::Slice segment = rest.substr(0, slash);
    core::Slice behind = slash == core::Slice::npos ? core::Slice{} : rest.substr(slash + 1);
    bool last = behind.empty();
    if (segment.empty()) return false;
    auto known = folder.routes.find(segment);
    if (known != folder.routes.end() &&
        take(known->second, folder, behind, slash != core::Slice::npos, match, depth))
        return true;
    for (auto& [name, route] : folder.parameters) {
        if (match.count == HandlerMatch::parameters_max) break;
        match.add(name, segment);
        if (take(route, folder, behind, slash != core::Slice::npos, match, depth))
            return true;
        --match.count;
    }
    if (!folder.rest || match.count == HandlerMatch::parameters_max) return false;
    if (rest.back() == '/' && !last) rest.remove_suffix(1);
    match.add(folder.rest_name, last ? segment : rest);
    match.file = folder.rest;
    match.folder = &folder;
    return true;
}

// A slash at the end makes no difference, unless there are both x.lua and x/index.lua.
bool HandlerTree::take(const HandlerFolder::Route& route, HandlerFolder& in, core::Slice behind,
                       bool slash, HandlerMatch& match, int depth) {
    bool last = behind.empty();
    if (last && route.file && !slash) {
        match.file = route.file;
        match.folder = &in;
        return true;
    }
    if (route.folder && depth < depth_max && find_in(*route.folder, behind, match, depth + 1))
        return true;
    if (!last || !route.file) return false;
    match.file = route.file;
    match.folder = &in;
    return true;
}

}  // namespace lua
