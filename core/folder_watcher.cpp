// Making sense of what folders report; see folder_watcher.h. Folders are known by number: what is
// told may close any of them.
#include "core/folder_watcher.h"

#include <sys/stat.h>
#if defined(__linux__)
#include <sys/vfs.h>
#else
#include <sys/param.h>
#include <sys/mount.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/clock.h"
#include "core/log.h"

namespace core {

namespace {

// File systems whose files others change behind the kernel's back.
bool is_remote(const char* path) {
    struct statfs about;
    if (::statfs(path, &about) != 0) return false;
#if defined(__linux__)
    switch (uint32_t(about.f_type)) {
        case 0x6969:          // NFS
        case 0x517b:          // SMB
        case 0xff534d42:      // CIFS
        case 0xfe534d42:      // SMB2
        case 0x65735546:      // FUSE
        case 0x01021997:      // 9P
        case 0x00c36400:      // Ceph
        case 0x786f4256:      // VirtualBox
        case 0x5346414f:      // AFS
        case 0x01161970:      // GFS2
        case 0x0bd00bd0:      // Lustre
        case 0x47504653:      // GPFS
            return true;
        default:
            return false;
    }
#else
    return (about.f_flags & MNT_LOCAL) == 0;
#endif
}

bool is_link(const std::string& path) {
    struct stat is;
    return ::lstat(path.c_str(), &is) == 0 && S_ISLNK(is.st_mode);
}

// A file that appears in one piece: a link, symbolic or not.
bool appears_whole(const std::string& path) {
    struct stat is;
    return ::lstat(path.c_str(), &is) == 0 && (!S_ISREG(is.st_mode) || is.st_nlink > 1);
}

}  // namespace

FolderWatcher::FolderWatcher()
    : kernel_([](void* self, const FileWatcher::Report& report) {
          static_cast<FolderWatcher*>(self)->kernel_reported(report);
      }, this),
      settle_timer_([](void* self) { static_cast<FolderWatcher*>(self)->settle_due(); }, this),
      poll_timer_([](void* self) { static_cast<FolderWatcher*>(self)->look_at_polled(); }, this) {
    numbers_.reserve(64);
}

FolderWatcher::~FolderWatcher() = default;

FolderWatcher::Folder* FolderWatcher::find(int number) const {
    auto at = folders_.find(number);
    return at == folders_.end() ? nullptr : at->second.get();
}

int FolderWatcher::add(Folder&& made) {
    int number = ++last_number_;
    Folder& folder = *(folders_[number] = std::make_unique<Folder>(std::move(made)));
    begin_watch(number, folder);
    if (folder.guarded) set_guards(number, folder);
    return number;
}

int FolderWatcher::open(const std::string& path, bool guarded, Told told, void* owner) {
    Folder made;
    made.path = path;
    while (made.path.size() > 1 && made.path.back() == '/') made.path.pop_back();
    made.guarded = guarded;
    made.told = told;
    made.owner = owner;
    return add(std::move(made));
}

void FolderWatcher::close(int number) {
    Folder* folder = find(number);
    if (!folder) return;
    drop_guards(*folder);
    end_watch(number, *folder);
    folders_.erase(number);
}

// ---- the kernel's watches ----

void FolderWatcher::begin_watch(int number, Folder& folder) {
    folder.watch = kernel_.add_folder(folder.path.c_str(), folder.guards_for != 0);
    int error = errno;
    if (folder.watch >= 0) by_watch_.emplace(folder.watch, number);
    struct stat is = {};
    bool there = ::stat(folder.path.c_str(), &is) == 0;
    folder.device = there ? uint64_t(is.st_dev) : 0;
    folder.inode = there ? uint64_t(is.st_ino) : 0;
    folder.polled = folder.watch < 0 || is_remote(folder.path.c_str()) ||
                    (!folder.guards_for && !FileWatcher::reports_writing());
    if (folder.watch < 0 && error != ENOENT && error != ENOTDIR) warn_polled(folder.path, error);
    if (folder.polled && !poll_timer_.pending()) poll_timer_.set(poll_ms);
}

void FolderWatcher::end_watch(int number, Folder& folder) {
    if (folder.watch < 0) return;
    auto [first, last] = by_watch_.equal_range(folder.watch);
    auto own = std::find_if(first, last, [&](auto& entry) { return entry.second == number; });
    if (own != last) by_watch_.erase(own);
    kernel_.remove(folder.watch);
    folder.watch = -1;
}

// The folders above that hold the name of this one, or a link on the way to it.
void FolderWatcher::set_guards(int number, Folder& folder) {
    if (!folder.path.starts_with('/')) return;
    for (size_t end = 1; end < folder.path.size();) {
        size_t begin = end;
        end = std::min(folder.path.find('/', begin), folder.path.size());
        bool last = end == folder.path.size();
        if (last || is_link(folder.path.substr(0, end))) {
            Folder above;
            above.path = begin > 1 ? folder.path.substr(0, begin - 1) : "/";
            above.guards_for = number;
            std::string name = folder.path.substr(begin, end - begin);
            int guard = add(std::move(above));
            folder.guards.push_back({guard, std::move(name)});
        }
        ++end;
    }
}

void FolderWatcher::drop_guards(Folder& folder) {
    for (const Guard& guard : folder.guards) {
        if (Folder* above = find(guard.folder)) end_watch(guard.folder, *above);
        folders_.erase(guard.folder);
    }
    folder.guards.clear();
}

// The path leads elsewhere now.
void FolderWatcher::reopen(int number) {
    Folder* folder = find(number);
    if (!folder) return;
    drop_guards(*folder);
    end_watch(number, *folder);
    begin_watch(number, *folder);
    if (folder->guarded) set_guards(number, *folder);
    folder->unsettled.clear();
    tell(number, News::folder, {});
}

void FolderWatcher::warn_polled(const std::string& path, int error) {
    if (warned_) return;
    warned_ = true;
    LOG(process_log(), warn, error,
        "watching folder \"%s\" failed: changes in it, and in others like it, are looked for every "
        "second%s", path.c_str(),
        error == ENOSPC ? " (fs.inotify.max_user_watches is the limit)"
        : error == EMFILE ? " (fs.inotify.max_user_instances may be the limit)" : "");
}

// ---- reports ----

void FolderWatcher::kernel_reported(const FileWatcher::Report& report) {
    std::vector<int> numbers = std::move(numbers_);
    numbers.clear();
    if (report.what == FileWatcher::lost) {
        for (auto& [number, folder] : folders_) numbers.push_back(number);
    } else {
        auto [first, last] = by_watch_.equal_range(report.watch);
        for (auto at = first; at != last; ++at) numbers.push_back(at->second);
    }
    for (int number : numbers) entry_reported(number, report);
    numbers_ = std::move(numbers);
}

// A guard stands in a folder where much may happen that is none of its business.
bool FolderWatcher::concerns(int number, const Folder& folder, Slice name) const {
    if (!folder.guards_for || name.empty()) return true;
    const Folder* guarded = find(folder.guards_for);
    return guarded && std::any_of(guarded->guards.begin(), guarded->guards.end(),
                                  [&](const Guard& guard) {
                                      return guard.folder == number && guard.name == name;
                                  });
}

void FolderWatcher::entry_reported(int number, const FileWatcher::Report& report) {
    Folder* folder = find(number);
    if (!folder || !concerns(number, *folder, report.name)) return;
    switch (report.what) {
    case FileWatcher::complete:
        if (auto at = folder->unsettled.find(report.name); at != folder->unsettled.end())
            folder->unsettled.erase(at);
        return tell(number, News::entry, report.name);
    case FileWatcher::made:
        if (report.is_folder || appears_whole(folder->path + "/" + std::string(report.name)))
            return tell(number, News::entry, report.name);
        return unsettle(*folder, report.name, writing_ms, News::entry);
    case FileWatcher::written:
        return unsettle(*folder, report.name, writing_ms, News::entry);
    case FileWatcher::left:
        return unsettle(*folder, report.name, away_ms, News::entry);
    case FileWatcher::gone:
        end_watch(number, *folder);
        folder->polled = true;
        if (!poll_timer_.pending()) poll_timer_.set(poll_ms);
        break;
    case FileWatcher::lost:
        folder->unsettled.clear();
        break;
    case FileWatcher::unknown:
    case FileWatcher::changed:
        break;
    }
    tell(number, News::folder, {});
}

void FolderWatcher::tell(int number, News news, Slice name) {
    Folder* folder = find(number);
    if (!folder) return;
    if (folder->guards_for) return guard_told(*folder, number, news, name);
    folder->told(folder->owner, news, name);
}

void FolderWatcher::guard_told(const Folder& guard, int number, News news, Slice name) {
    int guarded = guard.guards_for;
    Folder* folder = find(guarded);
    if (!folder) return;
    for (const Guard& entry : folder->guards) {
        if (entry.folder != number) continue;
        if (news == News::folder || entry.name == name) return reopen(guarded);
    }
}

bool FolderWatcher::is_unsettled(int number, Slice name) const {
    const Folder* folder = find(number);
    if (!folder) return false;
    auto at = folder->unsettled.find(name);
    return at != folder->unsettled.end() && at->second.news == News::entry;
}

bool FolderWatcher::is_polled(int number) const {
    const Folder* folder = find(number);
    return folder && folder->polled;
}

int64_t FolderWatcher::steady_time(int number) const {
    return is_polled(number) ? poll_ms : steady_ms;
}

// ---- what takes a while ----

void FolderWatcher::expect(int number, Slice name, int64_t delay_ms) {
    Folder* folder = find(number);
    if (folder && !folder->unsettled.count(name)) unsettle(*folder, name, delay_ms, News::unsure);
}

void FolderWatcher::unsettle(Folder& folder, Slice name, int64_t delay_ms, News news) {
    int64_t deadline = Clock::monotonic_ms() + delay_ms;
    auto at = folder.unsettled.find(name);
    if (at == folder.unsettled.end()) folder.unsettled.emplace(name, Unsettled{deadline, news});
    else at->second = {deadline, news};
    if (!settle_timer_.pending() || settle_timer_.deadline_ms() > deadline)
        settle_timer_.set(delay_ms);
}

void FolderWatcher::settle_due() {
    struct Due {
        int folder;
        News news;
        std::string name;
    };
    std::vector<Due> due;
    int64_t now = Clock::monotonic_ms(), next = INT64_MAX;
    for (auto& [number, folder] : folders_) {
        for (auto at = folder->unsettled.begin(); at != folder->unsettled.end();) {
            if (at->second.deadline_ms > now) {
                next = std::min(next, at->second.deadline_ms);
                ++at;
                continue;
            }
            due.push_back({number, at->second.news, at->first});
            at = folder->unsettled.erase(at);
        }
    }
    if (next != INT64_MAX) settle_timer_.set(next - now);
    for (const Due& entry : due) tell(entry.folder, entry.news, entry.name);
}

void FolderWatcher::look_at_polled() {
    std::vector<int> polled;
    for (auto& [number, folder] : folders_) {
        if (folder->polled) polled.push_back(number);
    }
    for (int number : polled) {
        Folder* folder = find(number);
        if (!folder) continue;
        struct stat is = {};
        bool there = ::stat(folder->path.c_str(), &is) == 0;
        bool same = there && folder->device == uint64_t(is.st_dev) &&
                    folder->inode == uint64_t(is.st_ino);
        if (there && (!same || folder->watch < 0)) {
            if (folder->guards_for) {
                int guarded = folder->guards_for;
                bool moved = !same;
                end_watch(number, *folder);
                begin_watch(number, *folder);
                if (moved) reopen(guarded);
                continue;
            }
            end_watch(number, *folder);
            begin_watch(number, *folder);
        }
        if (!folder->guards_for) tell(number, News::folder, {});
    }
    bool any = std::any_of(folders_.begin(), folders_.end(),
                           [](auto& entry) { return entry.second->polled; });
    if (any && !poll_timer_.pending()) poll_timer_.set(poll_ms);
}

}  // namespace core
