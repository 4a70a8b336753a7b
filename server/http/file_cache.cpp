// Cached files: finding, checking, keeping and forgetting them. Called by open_files.cpp.
#include "server/http/file_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <new>

#include "core/arena.h"
#include "core/clock.h"
#include "core/file_watcher.h"

namespace server {

namespace {

// Tells one state of a file from another.
struct Identity {
    dev_t device = 0;
    ino_t inode = 0;
    off_t size = 0;
    timespec modified{}, changed{};

    Identity() = default;
    explicit Identity(const struct stat& of)
        : device(of.st_dev), inode(of.st_ino), size(of.st_size), modified(of.st_mtim),
          changed(of.st_ctim) {}

    bool operator==(const Identity& other) const {
        auto same = [](const timespec& a, const timespec& b) {
            return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
        };
        return device == other.device && inode == other.inode && size == other.size &&
               same(modified, other.modified) && same(changed, other.changed);
    }
};

void fill(FileInfo& info, const struct stat& from) {
    info.size = from.st_size;
    info.mtime = from.st_mtime;
    info.inode = from.st_ino;
    info.is_file = S_ISREG(from.st_mode);
    info.is_directory = S_ISDIR(from.st_mode);
    info.is_link = S_ISLNK(from.st_mode);
    info.is_executable = from.st_mode & S_IXUSR;
}

void fail(FileInfo& info, const char* call) {
    info.error = errno;
    info.failed = call;
}

// Opens one component of a path. With same_owner a link may be followed when it belongs to whom
// its target belongs to.
int open_component(int at, const char* name, int flags, FileOpening::Symlinks mode,
                   FileInfo& info) {
    if (mode == FileOpening::none) flags |= O_NOFOLLOW;
    int fd = ::openat(at, name, flags | O_CLOEXEC);
    if (fd < 0) {
        fail(info, "openat()");
        return -1;
    }
    struct stat link, target;
    if (mode != FileOpening::same_owner) return fd;
    if (::fstatat(at, name, &link, AT_SYMLINK_NOFOLLOW) != 0 || ::fstat(fd, &target) != 0) {
        fail(info, "fstatat()");
    } else if (S_ISLNK(link.st_mode) && link.st_uid != target.st_uid) {
        errno = ELOOP;
        fail(info, "fstatat()");
    } else {
        return fd;
    }
    ::close(fd);
    return -1;
}

// Opens a path component by component, refusing links (disable_symlinks).
int open_walking(core::Slice path, const FileOpening& how, FileInfo& info) {
    constexpr int folder_flags = O_PATH | O_DIRECTORY | O_NONBLOCK;
    std::string part(path.substr(0, how.trusted));
    int at = ::open(part.empty() ? "/" : part.c_str(), folder_flags | O_CLOEXEC);
    if (at < 0) {
        fail(info, "open()");
        return -1;
    }
    path.remove_prefix(how.trusted);
    while (at >= 0) {
        while (!path.empty() && path.front() == '/') path.remove_prefix(1);
        size_t end = std::min(path.find('/'), path.size());
        part.assign(path.substr(0, end));
        path.remove_prefix(end);
        bool last = path.find_first_not_of('/') == core::Slice::npos;
        int flags = last ? O_RDONLY | O_NONBLOCK | (path.empty() ? 0 : O_DIRECTORY) : folder_flags;
        int next = open_component(at, part.empty() ? "." : part.c_str(), flags, how.symlinks, info);
        ::close(at);
        at = next;
        if (last) break;
    }
    return at;
}

// directio: the page cache is left alone, or where the file system cannot do that, its pages leave
// the cache with the descriptor.
core::OpenFile* adopt_uncached(int fd) {
    core::OpenFile* file = core::OpenFile::adopt(fd);
#ifdef O_DIRECT
    if (::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_DIRECT) == 0) return file;
#endif
#ifdef POSIX_FADV_DONTNEED
    file->release = [](core::Owner* owner) {
        auto* it = static_cast<core::OpenFile*>(owner);
        ::posix_fadvise(it->fd, 0, 0, POSIX_FADV_DONTNEED);
        ::close(it->fd);
        delete it;
    };
#endif
    return file;
}

}  // namespace

struct FileCache::Entry : core::ListNode {
    std::string path;
    OpenedFile found;
    Identity identity;
    int watch = -1;
    int64_t checked_ms = 0;
    int64_t used_ms = 0;
    int64_t uses = 1;

    bool serves(FileUse use) const {
        return use == FileUse::test || found.error || !found.is_file || found.file_ ||
               found.bytes_;
    }
};

FileCache::FileCache(const FileCacheLimits& limits)
    : limits_(limits),
      sweep_timer_([](void* self) { static_cast<FileCache*>(self)->sweep(); }, this) {
    watcher_ = std::make_unique<core::FileWatcher>(
        [](void* self, const core::FileWatcher::Report& report) {
            auto& cache = *static_cast<FileCache*>(self);
            cache.by_use_.each([&](Entry& entry) {
                if (report.watch < 0 || entry.watch == report.watch) cache.forget(entry);
            });
        },
        this);
}

FileCache::~FileCache() {
    by_use_.each([this](Entry& entry) { forget(entry); });
}

OpenedFile FileCache::find(core::Slice path, FileUse use, const FileOpening& how,
                           const FileCacheRules& rules) {
    auto at = entries_.find(path);
    Entry* entry = at == entries_.end() ? nullptr : at->second.get();
    if (entry && !fresh(*entry, rules)) {
        forget(*entry);
        entry = nullptr;
    }
    if (entry) {
        ++entry->uses;
        entry->used_ms = core::Clock::monotonic_ms();
        by_use_.push_back(*entry);
        if (entry->serves(use)) {
            ++hits_;
            return hit(*entry);
        }
    }
    ++misses_;
    struct stat was;
    OpenedFile found = open_and_stat(path, use, how, was);
    if (!entry) entry = remember(path, found, was, rules);
    if (entry && found.file_ && entry->uses >= rules.min_uses) keep_contents(*entry, found);
    return found;
}

OpenedFile FileCache::open(core::Slice path, FileUse use, const FileOpening& how) {
    struct stat was;
    return open_and_stat(path, use, how, was);
}

OpenedFile FileCache::open_and_stat(core::Slice path, FileUse use, const FileOpening& how,
                                    struct stat& was) {
    OpenedFile found;
    if (how.symlinks == FileOpening::any && use == FileUse::test) {
        if (::stat(path.data(), &was) != 0) {
            fail(found, "stat()");
        } else {
            fill(found, was);
        }
        return found;
    }
    int fd;
    if (how.symlinks != FileOpening::any) {
        fd = open_walking(path, how, found);
    } else if ((fd = ::open(path.data(), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) < 0) {
        fail(found, "open()");
    }
    if (fd < 0) return found;
    if (::fstat(fd, &was) != 0) {
        fail(found, "fstat()");
        ::close(fd);
        return found;
    }
    fill(found, was);
    if (found.is_file && use == FileUse::contents) {
#ifdef POSIX_FADV_SEQUENTIAL
        if (found.size > how.sequential_from) ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
#endif
        found.file_ = found.size >= how.direct_from ? adopt_uncached(fd)
                                                    : core::OpenFile::adopt(fd);
    } else {
        ::close(fd);
    }
    return found;
}

OpenedFile FileCache::hit(Entry& entry) {
    OpenedFile found;
    static_cast<FileInfo&>(found) = entry.found;
    if ((found.file_ = entry.found.file_)) found.file_->hold();
    if ((found.bytes_ = entry.found.bytes_)) found.bytes_->hold();
    return found;
}

bool FileCache::fresh(Entry& entry, const FileCacheRules& rules) {
    int64_t now = core::Clock::monotonic_ms();
    int64_t valid = rules.valid_ms;
    if (entry.watch < 0 && entry.found.bytes_) {
        valid = limits_.automatic ? 0 : std::min(valid, unwatched_ms);
    }
    if (now - entry.checked_ms < valid) return true;
    struct stat is;
    if (::stat(entry.path.c_str(), &is) != 0) {
        if (entry.found.error != errno) return false;
    } else if (entry.found.error || Identity(is) != entry.identity) {
        return false;
    }
    entry.checked_ms = now;
    return true;
}

// A path whose hash was the last one in its place comes for the second time.
bool FileCache::seen_before(core::Slice path) {
    uint32_t hash = uint32_t(std::hash<core::Slice>{}(path)) | 1;
    uint32_t& last = seen_[(hash >> 1) % std::size(seen_)];
    return std::exchange(last, hash) == hash;
}

FileCache::Entry* FileCache::remember(core::Slice path, const OpenedFile& found,
                                      const struct stat& was, const FileCacheRules& rules) {
    if (limits_.automatic ? !found.file_ || !seen_before(path) : found.error && !rules.errors) {
        return nullptr;
    }
    while (entries_.size() >= size_t(limits_.entries_max)) forget(by_use_.front());
    auto made = std::make_unique<Entry>();
    Entry& entry = *made;
    entry.path.assign(path);
    static_cast<FileInfo&>(entry.found) = found;
    if (!found.error) entry.identity = Identity(was);
    entry.checked_ms = entry.used_ms = core::Clock::monotonic_ms();
    if (entries_.empty()) sweep_timer_.set(limits_.inactive_ms);
    by_use_.push_back(entry);
    entries_.emplace(entry.path, std::move(made));
    return &entry;
}

void FileCache::keep_contents(Entry& entry, const OpenedFile& found) {
    int fd = found.file_->fd;
    // The watch comes first: a change between it and the reading is reported.
    int watch = watcher_->add_file(fd);
    FileBytes* bytes = nullptr;
    bool small = found.size <= small_file_bytes && memory_bytes_ + found.size <= memory_bytes_max;
    if (small) bytes = read_bytes(fd, found.size);
    struct stat is;
    if (::fstat(fd, &is) != 0 || Identity(is) != entry.identity || (small && !bytes)) {
        if (bytes) bytes->drop();
        if (watch >= 0) watcher_->remove(watch);
        return;
    }
    entry.watch = watch;
    if (bytes) {
        entry.found.bytes_ = bytes;
        memory_bytes_ += bytes->size;
    } else {
        found.file_->hold();
        entry.found.file_ = found.file_;
    }
}

// Null when the file is shorter than it was.
FileBytes* FileCache::read_bytes(int fd, int64_t size) {
    core::count_heap_allocation();
    void* memory = std::malloc(sizeof(FileBytes) + size_t(size));
    if (!memory) return nullptr;
    auto* bytes = ::new (memory) FileBytes;
    bytes->release = [](core::Owner* owner) { std::free(static_cast<FileBytes*>(owner)); };
    while (bytes->size < size) {
        ssize_t count = ::pread(fd, bytes->data() + bytes->size, size_t(size) - bytes->size,
                                bytes->size);
        if (count > 0) {
            bytes->size += uint32_t(count);
        } else if (count == 0 || errno != EINTR) {
            bytes->drop();
            return nullptr;
        }
    }
    return bytes;
}

void FileCache::forget(Entry& entry) {
    if (entry.watch >= 0) watcher_->remove(entry.watch);
    if (entry.found.bytes_) memory_bytes_ -= entry.found.bytes_->size;
    entries_.erase(entries_.find(entry.path));
}

void FileCache::sweep() {
    int64_t oldest = core::Clock::monotonic_ms() - limits_.inactive_ms;
    while (!by_use_.empty() && by_use_.front().used_ms <= oldest) forget(by_use_.front());
    if (entries_.empty()) return;
    int64_t wait = by_use_.front().used_ms - oldest;
    sweep_timer_.set(std::max<int64_t>(wait, 1000));
}

core::Buffer& OpenedFile::add_to(core::Chain& chain, int64_t from, int64_t to) const {
    if (bytes_) {
        bytes_->hold();
        return chain.add(bytes_->text().substr(size_t(from), size_t(to - from)), bytes_);
    }
    file_->hold();
    return chain.add_file(file_, from, to);
}

}  // namespace server
