// FileWatcher: the kernel's own reports of changes to files and folders (inotify, kqueue), as they
// come. Files are watched for one change; folders until told otherwise. Used by the server's cache
// of open files, and by FolderWatcher, which makes sense of what folders report. Where the kernel
// has no such thing or refuses, nothing is watched and users look for themselves.
#pragma once

#include <cstdint>
#include <unordered_map>

#include "core/reactor.h"
#include "core/slice.h"
#include "core/socket.h"

namespace core {

class FileWatcher : public IoHandler {
  public:
    enum What : uint8_t {
        changed,       // a file: it has changed or gone; this watch has ended
        complete,      // an entry of a folder was written and closed, or moved here
        made,          // an entry was made: an empty file, a link, a folder
        written,       // a file in the folder is being written
        left,          // an entry was deleted or moved away
        unknown,       // some entry of the folder was made or has left: look
        gone,          // the folder itself was deleted, moved or unmounted; the watch has ended
        lost,          // reports were lost: anything may have changed (`watch` is -1)
    };
    struct Report {
        int watch;
        What what;
        Slice name;            // of the entry; empty where none is known
        bool is_folder;        // the entry is one (complete, made, left)
    };
    // Called from the loop or from poll(). It may add and remove watches, but not destroy this.
    using Reported = void (*)(void* argument, const Report& report);

    FileWatcher(Reported reported, void* argument);
    ~FileWatcher();

    // A number that is the same for the same file, or -1. Each successful call needs a remove(),
    // or its report.
    int add_file(int fd);
    // The same for a folder; `coarse`: what is written to its files does not matter. -1 sets errno.
    int add_folder(const char* path, bool coarse = false);
    void remove(int watch);
    // Takes the reports that are waiting.
    void poll();
    void on_io(uint8_t ready) override;
    // Whether a folder's reports include those of files written in place (kqueue's do not).
    static bool reports_writing();

  private:
    bool start();

    Reported reported_;
    void* argument_;
    Fd fd_;
    Watch watch_;
    bool failed_ = false;
    struct Watched {
        int users = 0;
        bool is_folder = false;
    };
    int watched(int watch, bool is_folder);
    std::unordered_map<int, Watched> watched_;
};

}  // namespace core
