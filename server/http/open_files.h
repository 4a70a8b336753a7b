// Files by path: opened, looked at, and remembered. Whoever serves or tests a file (static, index,
// gzip_static, try_files) asks open_file(); the caches behind it belong to the worker.
//
// With `open_file_cache` in force nginx's rules hold (max, inactive, valid, min_uses, errors).
// Without it a small cache keeps hot files: the bytes of small ones, the descriptors of others.
// What it keeps is dropped as soon as the kernel reports a change (inotify) and is compared with
// the path once a second; where the kernel cannot watch, before each use.
#pragma once

#include <cstdint>
#include <ctime>
#include <new>

#include "core/buffer.h"
#include "core/slice.h"
#include "server/verdict.h"

namespace server {

class Request;

// A whole small file in memory, shared by the responses that send it.
struct FileBytes : core::Owner {
    uint32_t size = 0;
    char* data() { return reinterpret_cast<char*>(this + 1); }
    core::Slice text() { return {data(), size}; }
};

struct FileInfo {
    int error = 0;                     // errno of what failed; 0: all is well
    const char* failed = nullptr;      // "open()", "stat()", "openat()"
    int64_t size = 0;
    int64_t mtime = 0;                 // seconds since 1970
    uint64_t inode = 0;
    bool is_file = false;
    bool is_directory = false;
    bool is_link = false;
    bool is_executable = false;
};

// What open_file() found, with its share of the contents.
class OpenedFile : public FileInfo {
  public:
    OpenedFile() = default;
    OpenedFile(const OpenedFile&) = delete;
    OpenedFile& operator=(const OpenedFile&) = delete;
    OpenedFile(OpenedFile&& from) noexcept
        : FileInfo(from), file_(from.file_), bytes_(from.bytes_) {
        from.file_ = nullptr;
        from.bytes_ = nullptr;
    }
    OpenedFile& operator=(OpenedFile&& from) noexcept {
        if (this != &from) {
            this->~OpenedFile();
            ::new (this) OpenedFile(static_cast<OpenedFile&&>(from));
        }
        return *this;
    }
    ~OpenedFile() {
        if (file_) file_->drop();
        if (bytes_) bytes_->drop();
    }

    // Appends [from, to) of a regular file: memory when it is kept there, else a file range.
    core::Buffer& add_to(core::Chain& chain, int64_t from, int64_t to) const;
    // The whole of it when it is in memory; null data otherwise.
    core::Slice bytes() const { return bytes_ ? bytes_->text() : core::Slice{}; }
    core::OpenFile* file() const { return file_; }

  private:
    friend class FileCache;
    core::OpenFile* file_ = nullptr;
    FileBytes* bytes_ = nullptr;
};

enum class FileUse : uint8_t {
    contents,     // a regular file's bytes are wanted
    test,         // only whether it is there and what it is
};

// `path` must have a NUL behind it. Obeys the request's location: open_file_cache,
// disable_symlinks, directio.
OpenedFile open_file(Request& request, core::Slice path, FileUse use = FileUse::contents);

// Logs that `path` could not be opened (404s only with log_not_found) and says what to answer:
// 404, 403 or 500, as nginx does.
Verdict reject_unopened(Request& request, const FileInfo& info, core::Slice path);

// Answers with the whole of a regular file: 200, its length, date, entity tag and type, open to
// ranges. Fields that go with it (Content-Encoding) are set before. finished, or a rejection.
Verdict respond_with_file(Request& request, const OpenedFile& file);

// Closes what this worker's caches hold.
void forget_open_files();

}  // namespace server
