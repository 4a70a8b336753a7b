// Unpacking gzip streams with zlib.
#include "server/http/gunzip_stream.h"

#include <utility>

namespace server {

GunzipStream::GunzipStream() {
    constexpr int gzip_wrapper = 16;
    error_ = inflateInit2(&stream_, MAX_WBITS + gzip_wrapper);
    open_ = error_ == Z_OK;
}

GunzipStream::~GunzipStream() {
    if (open_) inflateEnd(&stream_);
    if (chunk_) chunk_->drop();
}

bool GunzipStream::feed(core::Slice packed, core::Chain& out) {
    if (!open_) return false;
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream_.avail_in = uInt(packed.size());
    bool full = false;
    while (stream_.avail_in > 0 || full) {
        if (at_member_end_) {
            if (stream_.avail_in == 0) break;
            inflateReset(&stream_);
            at_member_end_ = false;
        }
        if (!chunk_) chunk_ = core::Chunk::take();
        stream_.next_out = reinterpret_cast<Bytef*>(chunk_->data() + chunk_->used);
        stream_.avail_out = uInt(chunk_->room());
        int result = inflate(&stream_, Z_NO_FLUSH);
        chunk_->used = uint32_t(core::Chunk::capacity - stream_.avail_out);
        full = stream_.avail_out == 0;
        if (full) flush(out);
        if (result == Z_STREAM_END) {
            at_member_end_ = true;
        } else if (result == Z_BUF_ERROR) {
            full = false;
        } else if (result != Z_OK) {
            error_ = result;
            return false;
        }
    }
    return true;
}

void GunzipStream::flush(core::Chain& out) {
    if (!chunk_ || chunk_->used == 0) return;
    core::Chunk* chunk = std::exchange(chunk_, nullptr);
    out.add({chunk->data(), chunk->used}, chunk);
}

}  // namespace server
