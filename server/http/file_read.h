// Reading what a buffer holds, whether it is memory or a file range: for filters that look at or
// change the bytes.
#pragma once

#include <sys/types.h>

#include "core/buffer.h"
#include "core/slice.h"

namespace server {

class Request;

// pread() that copes with interruptions, and with descriptors opened for directio: their reads must
// be aligned, so one that is not ends direct reading of that descriptor.
ssize_t read_file_at(int fd, char* to, size_t room, int64_t from);

// Hands out a buffer's bytes piece by piece. A file's pieces live in memory of the reader's thread
// until the next call of any reader.
class PieceReader {
  public:
    PieceReader(const Request& request, const core::Buffer& buffer);
    // The next piece; empty at the end, or when the file cannot be read (then failed()).
    core::Slice next();
    bool failed() const { return failed_; }

  private:
    const Request& request_;
    const core::Buffer& buffer_;
    int64_t at_;
    bool failed_ = false;
};

// Replaces file ranges by their bytes. False: a file cannot be read (logged).
bool load_files(const Request& request, core::Chain& chain);

}  // namespace server
