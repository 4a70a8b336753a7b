// GunzipStream: unpacks a gzip stream piece by piece, members one after the other. Called by the
// gunzip filter.
#pragma once

#include <zlib.h>

#include "core/buffer.h"
#include "core/slice.h"

namespace server {

class GunzipStream {
  public:
    GunzipStream();
    ~GunzipStream();
    GunzipStream(const GunzipStream&) = delete;
    GunzipStream& operator=(const GunzipStream&) = delete;

    // Appends what `packed` gives. False: it is not gzip (error() says zlib's number).
    bool feed(core::Slice packed, core::Chain& out);
    // Hands out what is still held back.
    void flush(core::Chain& out);
    // Nothing more will come: was the last member whole?
    bool complete() const { return at_member_end_; }
    int error() const { return error_; }

  private:
    z_stream stream_{};
    core::Chunk* chunk_ = nullptr;
    bool open_ = false;
    bool at_member_end_ = false;
    int error_ = 0;
};

}  // namespace server
