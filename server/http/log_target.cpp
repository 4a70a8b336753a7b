// Writing access logs. Called once a line.
#include "server/http/log_target.h"

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "core/clock.h"
#include "core/log_sinks.h"

namespace server {

void write_log(int fd, core::Slice path, core::Slice text, LogTrouble& trouble,
               bool has_reader) {
    int64_t now = core::Clock::seconds();
    if (trouble.full_at == now) return;
    ssize_t written = has_reader ? core::write_unless_full(fd, text)
                                 : ::write(fd, text.data(), text.size());
    if (written == ssize_t(text.size())) return;
    int error = written < 0 ? errno : 0;
    // The rest of a line that did not fit is not tried again: the disk is full.
    if (error == ENOSPC || (written >= 0 && !has_reader)) trouble.full_at = now;
    if (std::exchange(trouble.told_at, now) == now) return;
    core::LogContext& log = core::process_log();
    if (written < 0) {
        LOG(log, alert, error, "write() to \"%.*s\" failed", int(path.size()), path.data());
    } else {
        LOG(log, alert, 0, "write() to \"%.*s\" was incomplete: %zd of %zu", int(path.size()),
            path.data(), written, text.size());
    }
}

LogFile::LogFile(std::string path, std::shared_ptr<core::LogSink> sink, const Options& options)
    : path_(std::move(path)), sink_(std::move(sink)), options_(options),
      flush_timer_([](void* self) { static_cast<LogFile*>(self)->flush(); }, this) {}

LogFile::~LogFile() { flush(); }

void LogFile::line_done() {
    if (buffer_.size() > size_t(options_.buffer_bytes)) {
        if (complete_ > 0) {
            write(buffer_.text().substr(0, complete_));
            buffer_.drop_front(complete_);
        }
        // A line that is longer than the buffer (or there is none) goes out by itself.
        if (buffer_.size() > size_t(options_.buffer_bytes)) {
            write(buffer_.text());
            buffer_.clear();
        }
    }
    complete_ = buffer_.size();
    if (complete_ && options_.flush_ms && !flush_timer_.pending()) {
        flush_timer_.set(options_.flush_ms);
    }
}

void LogFile::flush() {
    if (complete_ == 0) return;
    write(buffer_.text().substr(0, complete_));
    buffer_.drop_front(complete_);
    complete_ = 0;
}

void LogFile::write(core::Slice text) {
    if (options_.gzip_level) return write_compressed(text);
    write_log(sink_->fd(), path_, text, trouble_, sink_->has_reader());
}

// Each piece is a gzip member of its own, so that the file is readable up to the last flush.
void LogFile::write_compressed(core::Slice text) {
    z_stream stream{};
    constexpr int gzip_wrapper = 16;
    if (deflateInit2(&stream, options_.gzip_level, Z_DEFLATED, MAX_WBITS + gzip_wrapper,
                     MAX_MEM_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK) {
        LOG(core::process_log(), alert, 0, "deflateInit2() failed");
        return;
    }
    LineBuffer out;
    size_t room = deflateBound(&stream, text.size());
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
    stream.avail_in = uInt(text.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.reserve(room));
    stream.avail_out = uInt(room);
    int result = deflate(&stream, Z_FINISH);
    out.advance(stream.total_out);
    deflateEnd(&stream);
    if (result != Z_STREAM_END) {
        LOG(core::process_log(), alert, 0, "deflate(Z_FINISH) failed: %d", result);
        return;
    }
    write_log(sink_->fd(), path_, out.text(), trouble_, sink_->has_reader());
}

LogFileCache::~LogFileCache() {
    for (Entry& entry : entries_) {
        if (entry.fd >= 0) ::close(entry.fd);
    }
}

void LogFileCache::drop(size_t index) {
    if (entries_[index].fd >= 0) ::close(entries_[index].fd);
    std::swap(entries_[index], entries_.back());
    entries_.pop_back();
}

LogFileCache::Entry* LogFileCache::find(core::Slice path) {
    int64_t now = core::Clock::monotonic_ms();
    Entry* found = nullptr;
    for (size_t i = 0; i < entries_.size();) {
        if (entries_[i].used_ms + options_.inactive_ms <= now) {
            drop(i);
        } else {
            ++i;
        }
    }
    for (Entry& entry : entries_) {
        if (entry.path == path) found = &entry;
    }
    if (found) return found;
    if (entries_.size() >= size_t(options_.max)) {
        auto oldest = std::min_element(entries_.begin(), entries_.end(),
                                       [](auto& a, auto& b) { return a.used_ms < b.used_ms; });
        drop(size_t(oldest - entries_.begin()));
    }
    Entry& entry = entries_.emplace_back();
    entry.path.assign(path);
    entry.checked_ms = now;
    return &entry;
}

// Was the file moved or removed since it was opened? Then it is opened anew.
bool LogFileCache::still_there(Entry& entry) {
    int64_t now = core::Clock::monotonic_ms();
    if (now - entry.checked_ms < options_.valid_ms) return true;
    entry.checked_ms = now;
    struct stat is;
    return ::stat(entry.path.c_str(), &is) == 0 && is.st_ino == entry.inode;
}

void LogFileCache::write(core::Slice path, core::Slice text, const core::LogContext& log) {
    Entry* entry = options_.max > 0 ? find(path) : nullptr;
    if (entry) {
        ++entry->uses;
        entry->used_ms = core::Clock::monotonic_ms();
        if (entry->fd >= 0 && !still_there(*entry)) {
            ::close(entry->fd);
            entry->fd = -1;
        }
        if (entry->fd >= 0) return write_log(entry->fd, path, text, trouble_);
    }
    int fd = core::open_append(std::string(path));
    if (fd < 0) {
        LOG(log, crit, errno, "open() \"%.*s\" failed", int(path.size()), path.data());
        return;
    }
    write_log(fd, path, text, trouble_);
    struct stat is;
    if (!entry || entry->uses < options_.min_uses || ::fstat(fd, &is) != 0) {
        ::close(fd);
        return;
    }
    entry->fd = fd;
    entry->inode = is.st_ino;
    entry->checked_ms = core::Clock::monotonic_ms();
}

}  // namespace server
