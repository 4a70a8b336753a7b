// ConfigStamp: what a configuration was made from, apart from Lua code that is refreshed while it
// runs. Two equal stamps mean that new workers would be as the old ones are. Used by main and the
// master's reload; knows Lua only by the names of its directives.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace server {

class Configuration;

class ConfigStamp {
  public:
    // The wall clock, to be asked before a configuration is loaded.
    static int64_t now_ns();
    // Of the configuration just loaded. A file that was changed since `began_ns` makes the stamp
    // differ from all others.
    static ConfigStamp of(Configuration& configuration, int64_t began_ns);
    // Equal, and all of the Lua code is such that running workers refresh it.
    bool same_workers(const ConfigStamp& other) const;

  private:
    struct File {
        std::string path;
        uint64_t device = 0, inode = 0;
        int64_t size = -1, modified_ns = 0, changed_ns = 0;
        bool operator==(const File&) const = default;
    };
    void add_file(const std::string& path);
    template <class Nodes>
    void add_files_of(const Nodes& nodes, const Configuration& configuration);

    bool refreshable_ = false;
    int64_t began_ns_ = 0;
    std::vector<std::string> texts_;       // file names and contents, -g
    std::vector<File> files_;              // whatever an argument names
    std::vector<std::string> addresses_;   // of names that were looked up meanwhile
};

// While a configuration is loaded: `host` was looked up, with this answer.
void note_looked_up(const std::string& host, const std::vector<std::string>& addresses);

}  // namespace server
