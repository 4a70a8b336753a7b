// Where access log lines go: files (plain, buffered, compressed), files named by variables, syslog.
// Called by the log module. Nothing here fails upwards: a line that cannot be written is lost and
// said so in the error log, once a second at most.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/list.h"
#include "core/log.h"
#include "core/timer.h"
#include "server/http/line_buffer.h"

namespace server {

// What is known of a log that could not be written, in seconds of the clock.
struct LogTrouble {
    int64_t full_at = -1;              // the disk was full
    int64_t told_at = -1;              // the error log was told
};

// One write of a whole text to a log. Past a full disk it does nothing for the rest of the second.
// `has_reader`: it is a pipe or the like, which loses what its reader is too slow for.
void write_log(int fd, core::Slice path, core::Slice text, LogTrouble& trouble,
               bool has_reader = false);

// A log file named in the configuration. All access_log directives that name it share it.
class LogFile {
  public:
    struct Options {
        int64_t buffer_bytes = 0;      // 0: every line is written at once
        int64_t flush_ms = 0;          // 0: only when the buffer is full
        int gzip_level = 0;            // 0: plain
        bool operator==(const Options&) const = default;
    };

    LogFile(std::string path, std::shared_ptr<core::LogSink> sink, const Options& options);
    ~LogFile();
    LogFile(const LogFile&) = delete;

    const std::string& path() const { return path_; }
    const Options& options() const { return options_; }
    void set_options(const Options& options) { options_ = options; }

    // The caller appends one line to line() and then calls line_done().
    LineBuffer& line() { return buffer_; }
    void line_done();
    void flush();

  private:
    void write(core::Slice text);
    void write_compressed(core::Slice text);

    std::string path_;
    std::shared_ptr<core::LogSink> sink_;
    Options options_;
    LineBuffer buffer_;
    size_t complete_ = 0;              // bytes of finished lines in the buffer
    LogTrouble trouble_;
    core::Timer flush_timer_;
};

// Files whose names hold variables: kept open by open_log_file_cache.
class LogFileCache {
  public:
    struct Options {
        int max = 0;                   // 0: off
        int64_t inactive_ms = 10000;
        int64_t valid_ms = 60000;
        int64_t min_uses = 1;
    };

    explicit LogFileCache(const Options& options) : options_(options) {}
    ~LogFileCache();

    // Writes one line to the file, opening (and creating) it where needed. `path` ends with a NUL.
    void write(core::Slice path, core::Slice text, const core::LogContext& log);

  private:
    struct Entry {
        std::string path;
        int fd = -1;
        uint64_t inode = 0;
        int64_t checked_ms = 0, used_ms = 0, uses = 0;
    };
    Entry* find(core::Slice path);
    bool still_there(Entry& entry);
    void drop(size_t index);

    Options options_;
    std::vector<Entry> entries_;       // few: searched in turn
    LogTrouble trouble_;
};

}  // namespace server
