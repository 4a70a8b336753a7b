// Walks a parsed configuration for everything outside it that it was made from.
#include "server/config_stamp.h"

#include <sys/stat.h>

#include <algorithm>
#include <ctime>

#include "conf/tree.h"
#include "server/config.h"

namespace server {

namespace {

// The clock that file systems take their times from: it advances in steps.
#ifdef CLOCK_REALTIME_COARSE
constexpr clockid_t file_clock = CLOCK_REALTIME_COARSE;
#else
constexpr clockid_t file_clock = CLOCK_REALTIME;
#endif

std::vector<std::string> looked_up;

bool ends_with(const std::string& text, const char* end) { return text.ends_with(end); }

bool is_script(const std::string& name) { return name.find("_by_lua") != std::string::npos; }

// Scripts that have done their work once a worker is there.
bool runs_once(const std::string& name) {
    return name.starts_with("init_by_lua") || name.starts_with("init_worker_by_lua");
}

// Files that are written, and code that is refreshed.
bool is_no_source(const std::string& name) {
    return ends_with(name, "_log") || name == "pid" || name == "lock_file" ||
           name == "control_socket" || name == "control_state" ||
           (is_script(name) && !runs_once(name));
}

// How the Lua code of a configuration is kept.
struct CodeCaches {
    bool automatic = false;       // lua_code_cache auto in http{}
    bool other = false;           // any other setting of it, anywhere
    bool handlers = false;        // lua_handlers
    bool scripts = false;         // *_by_lua of any kind

    void look_at(const std::vector<conf::Node>& nodes, int depth) {
        for (const conf::Node& node : nodes) {
            if (node.name == "lua_code_cache" && !node.args.empty()) {
                if (node.args[0] != "auto") other = true;
                else if (depth == 1) automatic = true;
            }
            handlers |= node.name == "lua_handlers";
            scripts |= is_script(node.name);
            look_at(node.children, depth + 1);
        }
    }
    bool refreshable() const { return !other && (automatic || (handlers && !scripts)); }
};

int64_t nanoseconds(const timespec& time) {
    return int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

void note_looked_up(const std::string& host, const std::vector<std::string>& addresses) {
    std::vector<std::string> sorted = addresses;
    std::sort(sorted.begin(), sorted.end());
    std::string note = host;
    for (const std::string& address : sorted) note += " " + address;
    looked_up.push_back(std::move(note));
}

void ConfigStamp::add_file(const std::string& path) {
    struct stat is;
    if (::stat(path.c_str(), &is) != 0 || !S_ISREG(is.st_mode)) return;
#ifdef __APPLE__
    const timespec &modified = is.st_mtimespec, &changed = is.st_ctimespec;
#else
    const timespec &modified = is.st_mtim, &changed = is.st_ctim;
#endif
    files_.push_back({path, uint64_t(is.st_dev), uint64_t(is.st_ino), int64_t(is.st_size),
                      nanoseconds(modified), nanoseconds(changed)});
    // Too new to tell whether it was read before or after.
    if (nanoseconds(changed) >= began_ns_) refreshable_ = false;
}

// Any word may name a file that was read: certificates, keys, passwords. Trying them all forgets
// none; a file that was not read only costs a needless reload.
template <class Nodes>
void ConfigStamp::add_files_of(const Nodes& nodes, const Configuration& configuration) {
    const LoadOptions& options = configuration.options();
    for (const conf::Node& node : nodes) {
        add_files_of(node.children, configuration);
        if (node.is_lua || is_no_source(node.name)) continue;
        for (const std::string& word : node.args) {
            if (word.empty() || word.size() > 4000 || word.find('$') != std::string::npos) continue;
            if (word[0] == '/') {
                add_file(word);
                continue;
            }
            add_file(options.prefix + word);
            add_file(options.path.substr(0, options.path.rfind('/') + 1) + word);
        }
    }
}

int64_t ConfigStamp::now_ns() {
    timespec now;
    ::clock_gettime(file_clock, &now);
    return nanoseconds(now);
}

ConfigStamp ConfigStamp::of(Configuration& configuration, int64_t began_ns) {
    ConfigStamp stamp;
    stamp.addresses_.swap(looked_up);
    CodeCaches caches;
    caches.look_at(configuration.tree().nodes, 0);
    stamp.refreshable_ = caches.refreshable();
    if (!stamp.refreshable_) return stamp;
    stamp.began_ns_ = began_ns;
    const conf::Tree& tree = configuration.tree();
    for (size_t i = 0; i < tree.files.size(); ++i) {
        stamp.texts_.push_back(*tree.files[i]);
        stamp.texts_.push_back(*tree.texts[i]);
    }
    for (const auto& text : tree.option_texts) stamp.texts_.push_back(*text);
    stamp.add_files_of(tree.nodes, configuration);
    for (const char* path : {"/etc/resolv.conf", "/etc/hosts", "/etc/passwd", "/etc/group"}) {
        stamp.add_file(path);
    }
    return stamp;
}

bool ConfigStamp::same_workers(const ConfigStamp& other) const {
    return refreshable_ && other.refreshable_ && texts_ == other.texts_ &&
           files_ == other.files_ && addresses_ == other.addresses_;
}

}  // namespace server
