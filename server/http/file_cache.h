// FileCache: the entries behind open_files.h, one cache per set of limits. Knows neither requests
// nor configuration.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "core/list.h"
#include "core/timer.h"
#include "server/http/open_files.h"

namespace core {
class FileWatcher;
}

namespace server {

struct FileCacheLimits {
    int entries_max = 512;
    int64_t inactive_ms = 10000;
    bool automatic = true;         // nobody asked for it: see FileCache::find
    bool operator==(const FileCacheLimits&) const = default;
};

// How one location wants its files cached.
struct FileCacheRules {
    int64_t valid_ms = 1000;
    int64_t min_uses = 1;
    bool errors = false;
};

// How one file is to be opened.
struct FileOpening {
    enum Symlinks : uint8_t { any, none, same_owner };
    Symlinks symlinks = any;
    size_t trusted = 0;            // bytes of the path that are not checked for links
    int64_t direct_from = INT64_MAX;   // files of this size on leave the page cache alone
    int64_t sequential_from = INT64_MAX;   // larger ones are read ahead (read_ahead)
};

class FileCache {
  public:
    static constexpr int64_t small_file_bytes = 64 * 1024;
    static constexpr int64_t memory_bytes_max = 32 << 20;
    static constexpr int64_t unwatched_ms = 1000;

    explicit FileCache(const FileCacheLimits& limits);
    ~FileCache();

    const FileCacheLimits& limits() const { return limits_; }

    // A found file comes from the cache or is opened; it enters the cache by the rules. An
    // automatic cache keeps regular files only, from their second use on, so that a walk over many
    // files costs nothing.
    OpenedFile find(core::Slice path, FileUse use, const FileOpening& how,
                    const FileCacheRules& rules);
    // The same, past every cache.
    static OpenedFile open(core::Slice path, FileUse use, const FileOpening& how);

    size_t entries() const { return entries_.size(); }
    int64_t memory_bytes() const { return memory_bytes_; }
    // How many find() answered without asking the kernel, and how many not.
    int64_t hits() const { return hits_; }
    int64_t misses() const { return misses_; }

  private:
    struct Entry;

    OpenedFile hit(Entry& entry);
    bool fresh(Entry& entry, const FileCacheRules& rules);
    bool seen_before(core::Slice path);
    Entry* remember(core::Slice path, const OpenedFile& found, const struct stat& was,
                    const FileCacheRules& rules);
    void keep_contents(Entry& entry, const OpenedFile& found);
    void forget(Entry& entry);
    void sweep();
    static OpenedFile open_and_stat(core::Slice path, FileUse use, const FileOpening& how,
                                    struct stat& was);
    static FileBytes* read_bytes(int fd, int64_t size);

    FileCacheLimits limits_;
    std::unordered_map<core::Slice, std::unique_ptr<Entry>> entries_;
    core::List<Entry> by_use_;                 // least recently used first
    int64_t memory_bytes_ = 0;
    int64_t hits_ = 0, misses_ = 0;
    std::unique_ptr<core::FileWatcher> watcher_;
    core::Timer sweep_timer_;
    uint32_t seen_[256] = {};                  // hashes of paths opened lately
};

}  // namespace server
