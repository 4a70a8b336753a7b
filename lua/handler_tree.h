// HandlerTree: the index of one folder of handlers (lua_handlers): which file answers which path.
// Kept up to date by what a FolderWatcher tells. Files are read and run elsewhere
// (handler_run.cpp); a HandlerFile holds what came of it. Knows no request.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/folder_watcher.h"
#include "core/slice.h"
#include "lua/source_file.h"

namespace lua {

class LuaVm;
class HandlerTree;

// The functions that a loaded file has given, as registry references. Gives them back at its end.
struct HandlerFunctions {
    static constexpr int methods = 17;         // server::Method's
    LuaVm* vm;
    int by_method[methods];
    int any;                                   // one function for all methods; _access.lua's
    int header, body;                          // _filter.lua's
    std::vector<std::pair<std::string, int>> others;   // methods with names of their own
    std::string allow;                         // "GET, HEAD, OPTIONS": what Allow says

    explicit HandlerFunctions(LuaVm* owner);
    ~HandlerFunctions();
    HandlerFunctions(const HandlerFunctions&) = delete;
};

struct HandlerFile {
    enum Kind : uint8_t { handler, access, filter };
    enum State : uint8_t {
        changed,       // there is a version that was not looked at
        ready,         // what `functions` hold is the newest
        failed,        // the newest version is no good; `functions` are the last good one's, if any
    };
    HandlerTree* tree;                         // null when the file has gone
    std::string path;                          // within the tree: "users/[id].lua"
    int folder;                                // its folder's number at the watcher
    Kind kind = handler;
    State state = changed;
    bool rerun = false;                        // run it again even if its text is the same
    uint16_t loading = 0;                      // tasks that do so right now
    uint32_t version = 0;
    FileStamp stamp;                           // of the newest version known
    size_t text_hash = 0;                      // of the text that `functions` came from
    std::shared_ptr<HandlerFunctions> functions;
    int64_t loaded_ms = 0;
    size_t reported_hash = 0;                  // of the text whose error was logged last
    std::string error;
    int64_t error_ms = 0;
    int64_t tried_ms = 0;                      // monotonic

    std::string name() const { return path.substr(path.rfind('/') + 1); }
    uint32_t changes = 0;                      // how often it has changed

    void change() {
        state = changed;
        ++changes;
    }
};

// A folder of the tree.
struct HandlerFolder {
    struct Item {                              // an entry of the folder on disk
        std::shared_ptr<HandlerFile> file;
        std::unique_ptr<HandlerFolder> folder;
        FileStamp candidate;                   // seen once; taken when it stays so
    };
    struct Route {                             // what a path segment leads to
        const std::shared_ptr<HandlerFile>* file = nullptr;
        HandlerFolder* folder = nullptr;
    };
    struct Hash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const {
            size_t hash = 0xcbf29ce484222325;
            for (char c : text) hash = (hash ^ uint8_t(c)) * 0x100000001b3;
            return hash;
        }
    };

    HandlerTree& tree;
    HandlerFolder* outer;                      // null for the tree's own
    std::string path;                          // within the tree, "" or ending in a slash
    int watched = 0;                           // its number at the watcher
    uint64_t device = 0, inode = 0;
    std::map<std::string, Item, std::less<>> items;    // by the entry's name

    // The same by what they mean; made from `items` when they have changed.
    bool routes_known = false;
    std::unordered_map<std::string, Route, Hash, std::equal_to<>> routes;
    std::map<std::string, Route> parameters;   // by the parameter's name
    const std::shared_ptr<HandlerFile>* index = nullptr;
    const std::shared_ptr<HandlerFile>* rest = nullptr;
    std::string rest_name;
    const std::shared_ptr<HandlerFile>* access = nullptr;
    const std::shared_ptr<HandlerFile>* filter = nullptr;

    HandlerFolder(HandlerTree& of, HandlerFolder* in, std::string where)
        : tree(of), outer(in), path(std::move(where)) {}
    ~HandlerFolder();
    void know_routes();
};

struct HandlerMatch {
    static constexpr int parameters_max = 16;
    // Plain, so that an array of them costs nothing until it is used.
    struct Parameter {
        const char* name_text;
        const char* value_text;
        uint32_t name_bytes, value_bytes;

        core::Slice name() const { return {name_text, name_bytes}; }
        core::Slice value() const { return {value_text, value_bytes}; }
    };
    void add(core::Slice name, core::Slice value) {
        parameters[count++] = {name.data(), value.data(), uint32_t(name.size()),
                               uint32_t(value.size())};
    }

    const std::shared_ptr<HandlerFile>* file = nullptr;
    HandlerFolder* folder = nullptr;           // where the file lies
    Parameter parameters[parameters_max];
    int count = 0;
};

class HandlerTree {
  public:
    static constexpr int depth_max = 32;

    // `prefix` begins and ends with a slash. Nothing is read yet.
    HandlerTree(std::string prefix, std::string folder, bool configured);
    ~HandlerTree();
    HandlerTree(const HandlerTree&) = delete;

    // Reads the folder, and follows its changes from now on; `changed` is told of every file that
    // has a new version (or a first one).
    using Changed = void (*)(const std::shared_ptr<HandlerFile>& file);
    void start(core::FolderWatcher& watcher, Changed changed);
    void stop();

    // What answers `uri`, which is decoded and normalised. False: nothing.
    bool find(core::Slice uri, HandlerMatch& match);
    bool has_access() const { return has_access_; }
    bool has_filters() const { return has_filters_; }
    const std::string& prefix() const { return prefix_; }
    const std::string& folder() const { return folder_; }
    const std::string& real_folder() const { return real_folder_; }   // ends in a slash
    bool configured() const { return configured_; }
    bool is_polled() const;
    core::FolderWatcher* watcher() const { return watcher_; }
    size_t files() const { return files_; }

    template <class Visit>
    void each_file(Visit&& visit) {
        if (root_) visit_files(*root_, visit);
    }

  private:
    friend struct HandlerFolder;
    using News = core::FolderWatcher::News;
    enum class Look : uint8_t { first, sure, unsure, waited };

    template <class Visit>
    static void visit_files(HandlerFolder& folder, Visit& visit) {
        for (auto& [name, item] : folder.items) {
            if (item.file) visit(item.file);
            if (item.folder) visit_files(*item.folder, visit);
        }
    }
    static void told(void* folder, News news, core::Slice name);
    void remount();
    void begin(HandlerFolder& folder, Look how);
    void scan(HandlerFolder& folder, Look how);
    void look(HandlerFolder& folder, core::Slice name, Look how);
    void look_at_folder(HandlerFolder& in, core::Slice name, const struct stat& is, Look how);
    void look_at_file(HandlerFolder& in, core::Slice name, const struct stat& is, Look how);
    void missing(HandlerFolder& in, core::Slice name, Look how);
    void forget(HandlerFolder& in, core::Slice name);
    bool leads_outside(const std::string& path);
    std::string full_path(const HandlerFolder& folder) const { return real_folder_ + folder.path; }

    bool find_in(HandlerFolder& folder, core::Slice rest, HandlerMatch& match, int depth);
    bool take(const HandlerFolder::Route& route, HandlerFolder& in, core::Slice behind, bool slash,
              HandlerMatch& match, int depth);

    std::string prefix_, folder_, real_folder_;
    bool configured_;
    bool has_access_ = false, has_filters_ = false;
    size_t files_ = 0;
    core::FolderWatcher* watcher_ = nullptr;
    Changed changed_ = nullptr;
    std::unique_ptr<HandlerFolder> root_;
};

}  // namespace lua
