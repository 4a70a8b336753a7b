// FolderWatcher: tells what became of the entries of folders once it is over. A file that is being
// written is reported when it is closed; one that has left, a moment later, because editors put a
// new one in its place. Folders that the kernel does not watch (no inotify, its limit reached,
// network file systems) are looked at every second instead. Used by lua/ for handlers and modules,
// one for each worker. Knows nothing of what the files are.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/file_watcher.h"
#include "core/slice.h"
#include "core/timer.h"

namespace core {

class FolderWatcher {
  public:
    // How long a file that was begun may go on without a write before it counts as complete; how
    // long one that has left may stay away; how long one must look the same where nobody says that
    // it is complete; how often what the kernel does not watch is looked at.
    static constexpr int64_t writing_ms = 1000;
    static constexpr int64_t away_ms = 40;
    static constexpr int64_t steady_ms = 50;
    static constexpr int64_t poll_ms = 1000;

    enum class News : uint8_t {
        entry,         // this entry is complete, or gone
        unsure,        // this entry was looked at by expect() and its time is up
        folder,        // anything in the folder may have changed: look at all of it
    };
    // Called from the loop or from poll(). It may open and close folders.
    using Told = void (*)(void* owner, News news, Slice name);

    FolderWatcher();
    ~FolderWatcher();

    // Watches a folder, which need not exist; the number is good for close(). `guarded`: also when
    // another folder takes its place, or a link on the way to it changes.
    int open(const std::string& path, bool guarded, Told told, void* owner);
    void close(int folder);
    // Is this entry being written, or away for a moment?
    bool is_unsettled(int folder, Slice name) const;
    // Reports `unsure` after `delay_ms`, unless something better comes in between.
    void expect(int folder, Slice name, int64_t delay_ms);
    // How long an entry of this folder that nobody vouches for must stay the same.
    int64_t steady_time(int folder) const;
    // Takes the kernel's reports that are waiting.
    void poll() { kernel_.poll(); }
    // Is it looked at every second?
    bool is_polled(int folder) const;

  private:
    struct Unsettled {
        int64_t deadline_ms;
        News news;
    };
    struct Guard {
        int folder;                // a folder of ours
        std::string name;          // whose entry this is
    };
    struct Folder {
        std::string path;
        Told told = nullptr;
        void* owner = nullptr;
        int guards_for = 0;        // it is a guard itself, of this folder
        bool guarded = false;
        bool polled = false;
        int watch = -1;
        uint64_t device = 0, inode = 0;
        std::map<std::string, Unsettled, std::less<>> unsettled;
        std::vector<Guard> guards;
    };

    Folder* find(int number) const;
    int add(Folder&& made);
    void kernel_reported(const FileWatcher::Report& report);
    void entry_reported(int number, const FileWatcher::Report& report);
    void tell(int number, News news, Slice name);
    void begin_watch(int number, Folder& folder);
    void end_watch(int number, Folder& folder);
    void set_guards(int number, Folder& folder);
    void drop_guards(Folder& folder);
    bool concerns(int number, const Folder& folder, Slice name) const;
    void guard_told(const Folder& guard, int number, News news, Slice name);
    void reopen(int number);
    void unsettle(Folder& folder, Slice name, int64_t delay_ms, News news);
    void settle_due();
    void look_at_polled();
    void warn_polled(const std::string& path, int error);

    FileWatcher kernel_;
    Timer settle_timer_;
    Timer poll_timer_;
    std::unordered_map<int, std::unique_ptr<Folder>> folders_;   // by number
    std::unordered_multimap<int, int> by_watch_;                 // kernel's number to ours
    std::vector<int> numbers_;             // kept for its room
    int last_number_ = 0;
    bool warned_ = false;
};

}  // namespace core
