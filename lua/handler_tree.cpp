// Keeping the index of a folder of handlers: what is on disk becomes items, items become routes.
// Matching is in handler_match.cpp. A file is taken into the index when somebody vouches for its
// being complete: the kernel, its age, or that it stayed the same for a moment.
#include "lua/handler_tree.h"

#include <dirent.h>
#include <sys/stat.h>

#include <memory>

#include "core/clock.h"
#include "core/log.h"
#include "lua/vm.h"

namespace lua {

namespace {

// A file last changed so long ago is not being written.
constexpr int64_t old_ms = 2000;

// Entries that are never looked at: hidden ones, helpers that begin with an underscore, what
// editors leave behind.
bool is_ignored(core::Slice name) {
    if (name.empty() || name[0] == '.' || name[0] == '#' || name.back() == '~') return true;
    return name[0] == '_' && name != "_access.lua" && name != "_filter.lua";
}

bool is_handler_name(core::Slice name) { return name.size() > 4 && name.ends_with(".lua"); }

HandlerFile::Kind kind_of(core::Slice name) {
    if (name == "_access.lua") return HandlerFile::access;
    if (name == "_filter.lua") return HandlerFile::filter;
    return HandlerFile::handler;
}

bool is_old(const FileStamp& stamp) {
    return core::Clock::wall_ms() - stamp.modified_ns / 1000000 > old_ms;
}

// The x of "[x]"; empty for other names.
core::Slice in_brackets(core::Slice name) {
    bool has = name.size() > 2 && name.front() == '[' && name.back() == ']';
    return has ? name.substr(1, name.size() - 2) : core::Slice{};
}

}  // namespace

// ---- what belongs to an index ----

HandlerFunctions::HandlerFunctions(LuaVm* owner)
    : vm(owner), any(LUA_NOREF), header(LUA_NOREF), body(LUA_NOREF) {
    for (int& reference : by_method) reference = LUA_NOREF;
}

HandlerFunctions::~HandlerFunctions() {
    if (!vm || vm != LuaVm::current()) return;
    for (int reference : by_method) luaL_unref(vm->L, LUA_REGISTRYINDEX, reference);
    for (int reference : {any, header, body}) luaL_unref(vm->L, LUA_REGISTRYINDEX, reference);
    for (auto& [name, reference] : others) luaL_unref(vm->L, LUA_REGISTRYINDEX, reference);
}

HandlerFolder::~HandlerFolder() {
    if (tree.watcher_ && watched) tree.watcher_->close(watched);
    for (auto& [name, item] : items) {
        if (item.file) item.file->tree = nullptr;
    }
}

void HandlerFolder::know_routes() {
    routes.clear();
    parameters.clear();
    index = rest = access = filter = nullptr;
    for (auto& known : items) {
        const Item& item = known.second;
        if (!item.file && !item.folder) continue;
        core::Slice name = known.first;
        if (item.file) name.remove_suffix(4);
        core::Slice inner = in_brackets(name);
        auto place = [&](Route& route) {
            if (item.file) route.file = &item.file;
            else route.folder = item.folder.get();
        };
        if (item.file && name == "index") {
            index = &item.file;
        } else if (item.file && item.file->kind != HandlerFile::handler) {
            (item.file->kind == HandlerFile::access ? access : filter) = &item.file;
        } else if (inner.starts_with("...")) {
            if (!item.file || inner.size() == 3) continue;
            rest = &item.file;
            rest_name = inner.substr(3);
        } else if (!inner.empty()) {
            place(parameters[std::string(inner)]);
        } else {
            place(routes[std::string(name)]);
        }
    }
    routes_known = true;
}

HandlerTree::HandlerTree(std::string prefix, std::string folder, bool configured)
    : prefix_(std::move(prefix)), folder_(std::move(folder)), configured_(configured) {}

HandlerTree::~HandlerTree() { stop(); }

void HandlerTree::start(core::FolderWatcher& watcher, Changed changed) {
    watcher_ = &watcher;
    changed_ = changed;
    root_ = std::make_unique<HandlerFolder>(*this, nullptr, "");
    root_->watched = watcher.open(folder_, true, told, root_.get());
    remount();
    if (real_folder_.empty()) {
        LOG(core::process_log(), warn, 0, "lua_handlers: there is no folder \"%s\" (yet)",
            folder_.c_str());
    }
    begin(*root_, Look::first);
}

void HandlerTree::stop() {
    root_.reset();
    watcher_ = nullptr;
}

bool HandlerTree::is_polled() const {
    return root_ && watcher_ && watcher_->is_polled(root_->watched);
}

// ---- following the disk ----

void HandlerTree::told(void* argument, News news, core::Slice name) {
    auto& folder = *static_cast<HandlerFolder*>(argument);
    HandlerTree& tree = folder.tree;
    if (news == News::folder) {
        if (!folder.outer) tree.remount();
        tree.scan(folder, Look::unsure);
    } else if (name.starts_with("..")) {
        tree.scan(folder, Look::unsure);      // what links of this folder may lead through
    } else {
        tree.look(folder, name, news == News::entry ? Look::sure : Look::waited);
    }
}

// The tree's own path may lead elsewhere now. Files keep what was made of them.
void HandlerTree::remount() {
    real_folder_ = real_path(folder_);
    if (!real_folder_.empty() && real_folder_ != "/") real_folder_ += "/";
}

// Notes which folder this is, and takes in what is in it. The watch was begun before.
void HandlerTree::begin(HandlerFolder& folder, Look how) {
    struct stat is = {};
    if (::stat(full_path(folder).c_str(), &is) == 0) {
        folder.device = uint64_t(is.st_dev);
        folder.inode = uint64_t(is.st_ino);
    }
    scan(folder, how);
}

void HandlerTree::scan(HandlerFolder& folder, Look how) {
    std::map<std::string, bool, std::less<>> present;
    for (auto& [name, item] : folder.items) present.emplace(name, false);
    std::string path = real_folder_.empty() ? "" : full_path(folder);
    std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(path.c_str()), ::closedir);
    while (const dirent* entry = listing ? ::readdir(listing.get()) : nullptr) {
        if (!is_ignored(entry->d_name)) present[entry->d_name] = true;
    }
    for (auto& [name, there] : present) {
        if (there) look(folder, name, how);
        else missing(folder, name, how);
    }
}

void HandlerTree::look(HandlerFolder& folder, core::Slice name, Look how) {
    if (is_ignored(name)) return;
    if (real_folder_.empty()) return missing(folder, name, how);
    std::string path = full_path(folder) + std::string(name);
    struct stat is;
    if (::lstat(path.c_str(), &is) != 0) return missing(folder, name, how);
    if (S_ISLNK(is.st_mode)) {
        if (::stat(path.c_str(), &is) != 0 || leads_outside(path))
            return missing(folder, name, Look::sure);
    }
    if (S_ISDIR(is.st_mode)) return look_at_folder(folder, name, is, how);
    if (S_ISREG(is.st_mode) && is_handler_name(name)) return look_at_file(folder, name, is, how);
    missing(folder, name, Look::sure);
}

bool HandlerTree::leads_outside(const std::string& path) {
    std::string real = real_path(path);
    if (real.starts_with(real_folder_)) return false;
    LOG(core::process_log(), warn, 0,
        "lua_handlers: \"%s\" leads out of \"%s\" and is not served", path.c_str(),
        folder_.c_str());
    return true;
}

void HandlerTree::look_at_folder(HandlerFolder& in, core::Slice name, const struct stat& is,
                                 Look how) {
    auto at = in.items.find(name);
    if (at != in.items.end() && at->second.folder) {
        HandlerFolder& known = *at->second.folder;
        bool same = known.device == uint64_t(is.st_dev) && known.inode == uint64_t(is.st_ino);
        if (same && how != Look::unsure) return;
        if (!same) {
            watcher_->close(known.watched);
            known.watched = watcher_->open(full_path(known), false, told, &known);
        }
        return begin(known, Look::unsure);
    }
    int depth = 1;
    for (HandlerFolder* outer = &in; outer; outer = outer->outer, ++depth) {
        bool loop = outer->device == uint64_t(is.st_dev) && outer->inode == uint64_t(is.st_ino);
        if (loop || depth >= depth_max) return;
    }
    forget(in, name);
    HandlerFolder::Item& item = in.items[std::string(name)];
    item.folder = std::make_unique<HandlerFolder>(*this, &in, in.path + std::string(name) + "/");
    in.routes_known = false;
    item.folder->watched = watcher_->open(full_path(*item.folder), false, told, item.folder.get());
    begin(*item.folder, how == Look::first ? Look::first : Look::unsure);
}

void HandlerTree::look_at_file(HandlerFolder& in, core::Slice name, const struct stat& is,
                               Look how) {
    FileStamp stamp = FileStamp::of(is);
    auto at = in.items.find(name);
    if (at != in.items.end() && at->second.folder) {
        forget(in, name);
        at = in.items.end();
    }
    if (at == in.items.end()) at = in.items.try_emplace(std::string(name)).first;
    HandlerFolder::Item& item = at->second;
    if (item.file && how != Look::sure && item.file->stamp == stamp) return;
    bool complete = how == Look::first || how == Look::sure ||
                    (how == Look::waited && item.candidate == stamp) ||
                    (is_old(stamp) && !watcher_->is_polled(in.watched));
    if (!complete) {
        item.candidate = stamp;
        return watcher_->expect(in.watched, name, watcher_->steady_time(in.watched));
    }
    if (!item.file) {
        item.file = std::make_shared<HandlerFile>();
        HandlerFile& file = *item.file;
        file.tree = this;
        file.path = in.path + std::string(name);
        file.kind = kind_of(name);
        if (file.kind == HandlerFile::access) has_access_ = true;
        if (file.kind == HandlerFile::filter) has_filters_ = true;
        in.routes_known = false;
        ++files_;
    }
    item.file->folder = in.watched;
    item.file->stamp = stamp;
    item.file->change();
    changed_(item.file);
}

// Where nobody said that the entry is gone it may be on its way back.
void HandlerTree::missing(HandlerFolder& in, core::Slice name, Look how) {
    if (how == Look::unsure && in.items.count(name))
        return watcher_->expect(in.watched, name, core::FolderWatcher::away_ms);
    forget(in, name);
}

void HandlerTree::forget(HandlerFolder& in, core::Slice name) {
    auto at = in.items.find(name);
    if (at == in.items.end()) return;
    auto count = [this](const std::shared_ptr<HandlerFile>&) { --files_; };
    if (at->second.file) {
        at->second.file->tree = nullptr;
        --files_;
    }
    if (at->second.folder) visit_files(*at->second.folder, count);
    in.items.erase(at);
    in.routes_known = false;
}

}  // namespace lua
