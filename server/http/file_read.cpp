// Reading file ranges for filters. Blocking: a page that is not in memory costs a disk access, as
// sendfile() would.
#include "server/http/file_read.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "server/http/request.h"

namespace server {

namespace {

constexpr size_t piece_bytes = 32 * 1024;

char* piece_room() {
    static thread_local char room[piece_bytes];
    return room;
}

}  // namespace

ssize_t read_file_at(int fd, char* to, size_t room, int64_t from) {
    for (;;) {
        ssize_t got = ::pread(fd, to, room, from);
        if (got >= 0) return got;
        if (errno == EINTR) continue;
#ifdef O_DIRECT
        int flags = ::fcntl(fd, F_GETFL);
        if (errno == EINVAL && flags >= 0 && flags & O_DIRECT) {
            if (::fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0) continue;
        }
#endif
        return -1;
    }
}

PieceReader::PieceReader(const Request& request, const core::Buffer& buffer)
    : request_(request), buffer_(buffer), at_(buffer.file_begin) {}

core::Slice PieceReader::next() {
    if (!buffer_.is_file()) {
        core::Slice all = buffer_.text();
        all.remove_prefix(size_t(at_ - buffer_.file_begin));
        at_ += int64_t(all.size());
        return all;
    }
    while (at_ < buffer_.file_end) {
        size_t wanted = size_t(std::min<int64_t>(buffer_.file_end - at_, piece_bytes));
        ssize_t count = read_file_at(buffer_.fd(), piece_room(), wanted, at_);
        if (count > 0) {
            at_ += count;
            return {piece_room(), size_t(count)};
        }
        failed_ = true;
        if (count < 0) {
            LOG(request_.log, crit, errno, "pread() failed");
        } else {
            LOG(request_.log, alert, 0, "file was truncated while it was read");
        }
        break;
    }
    return {};
}

bool load_files(const Request& request, core::Chain& chain) {
    bool any = false;
    for (core::Buffer* at = chain.head(); at; at = at->next) any = any || at->is_file();
    if (!any) return true;
    core::Chain loaded;
    bool whole = true;
    while (core::Buffer* buffer = chain.pop()) {
        if (!buffer->is_file()) {
            core::Buffer& kept = loaded.add(buffer->text(), buffer->owner, buffer->flags);
            if (kept.owner) kept.owner->hold();
        } else {
            PieceReader reader(request, *buffer);
            for (core::Slice piece = reader.next(); !piece.empty(); piece = reader.next()) {
                loaded.add_copy(piece);
            }
            whole = whole && !reader.failed();
            uint8_t marks = buffer->flags & (core::Buffer::flush | core::Buffer::last);
            if (marks) loaded.add_mark(marks);
        }
        core::Chain::release(buffer);
    }
    chain = std::move(loaded);
    return whole;
}

}  // namespace server
