// Holding back and passing on. The order is: what is held in memory, then what is in the file; new
// pieces go behind the file while anything is in it.
#include "server/upstream/relay.h"

#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace server {

int create_temp_file(Request& request, const conf::TempPath& folder, const char* default_name,
                     core::Slice& path) {
    std::string name = folder.path.empty() ? default_name : folder.path;
    if (name[0] != '/') name = Configuration::current().options().prefix + name;
    for (int attempt = 0; attempt < 2; ++attempt) {
        std::string made = name + "/XXXXXX";
        int fd = mkostemp(made.data(), O_CLOEXEC);
        if (fd >= 0) {
            path = request.arena.copy_z(made);
            return fd;
        }
        bool missing = errno == ENOENT && (mkdir(name.c_str(), 0700) == 0 || errno == EEXIST);
        if (missing) continue;
        LOG(request.log, crit, errno, "open() \"%s\" failed", made.c_str());
        return -1;
    }
    return -1;
}

BodyRelay::BodyRelay(Request& request, const UpstreamSettings& settings, Owner& owner)
    : request_(request), settings_(settings), owner_(owner) {
    drain_.run = [](Request&, void* self) {
        auto& it = *static_cast<BodyRelay*>(self);
        it.waiting_ = false;
        it.pass_on();
    };
    drain_.argument = this;
    held_max_ = settings.buffers->count * settings.buffers->bytes;
}

BodyRelay::~BodyRelay() {
    if (!file_) return;
    if (!file_path_.empty()) ::unlink(file_path_.data());
    file_->drop();
}

bool BodyRelay::open_file() {
    if (file_) return true;
    int fd = create_temp_file(request_, *settings_.temp_path, "proxy_temp", file_path_);
    if (fd < 0) return false;
    file_ = core::OpenFile::adopt(fd);
    return true;
}

bool BodyRelay::blocked() const {
    if (request_.output == Request::Output::broken) return false;
    if (!buffering_) return request_.output_blocked();
    if (empty() && !request_.output_blocked()) return false;
    if (held_bytes_ < held_max_ && in_file() == 0) return false;
    return file_end_ >= settings_.max_temp_file_size->count;
}

bool BodyRelay::send(core::Chain&& piece) {
    core::Chain own = std::move(piece);
    int64_t size = own.bytes();
    bytes_ += size;
    if (keep_all_) {
        if (!write_file(own)) return false;
        pass_on();
        return true;
    }
    if (empty() && (!request_.output_blocked() || !buffering_)) {
        request_.send(std::move(own));
        return true;
    }
    if (request_.output == Request::Output::broken) return true;
    bool held = hold(std::move(own));
    wait();
    return held;
}

bool BodyRelay::hold(core::Chain&& piece) {
    core::Chain own = std::move(piece);
    bool in_memory = in_file() == 0 &&
                     (held_bytes_ < held_max_ || settings_.max_temp_file_size->count == 0);
    if (!in_memory) return write_file(own);
    held_bytes_ += own.bytes();
    held_.append(std::move(own));
    return true;
}

bool BodyRelay::write_file(core::Chain& piece) {
    if (!file_) {
        if (!open_file()) return false;
        if (!keep_all_) {
            LOG(request_.log, warn, 0,
                "an upstream response is buffered to a temporary file %s while reading upstream",
                file_path_.data());
        }
    }
    for (core::Buffer* at = piece.head(); at; at = at->next) {
        core::Slice text = at->text();
        while (!text.empty()) {
            ssize_t n = ::pwrite(file_->fd, text.data(), text.size(), file_end_);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) {
                LOG(request_.log, crit, n < 0 ? errno : ENOSPC, "pwrite() \"%s\" failed",
                    file_path_.data());
                return false;
            }
            file_end_ += n;
            text.remove_prefix(size_t(n));
        }
    }
    return true;
}

void BodyRelay::wait() {
    if (waiting_ || drain_.linked()) return;
    waiting_ = true;
    request_.on_drained(drain_);
}

// The client has taken something: what was held goes on.
void BodyRelay::pass_on() {
    bool broken = request_.output == Request::Output::broken;
    while (!broken && !empty() && !request_.output_blocked()) {
        core::Chain chain;
        if (held_bytes_ > 0) {
            held_bytes_ = 0;
            chain = std::move(held_);
        } else {
            file_->hold();
            chain.add_file(file_, file_sent_, file_end_);
            file_sent_ = file_end_;
        }
        request_.send(std::move(chain));
        broken = request_.output == Request::Output::broken;
    }
    if (broken) {
        held_.clear();
        held_bytes_ = 0;
        file_sent_ = file_end_;
    }
    if (finishing_) {
        if (!empty()) return wait();
        finishing_ = false;
        if (!broken) request_.send_last();
        return owner_.on_relay_done();
    }
    if (!empty()) wait();
    if (!room_wanted_) return;
    if (blocked()) return wait();
    room_wanted_ = false;
    owner_.on_relay_room();
}

void BodyRelay::want_room() {
    room_wanted_ = true;
    wait();
}

bool BodyRelay::finish(core::Chain&& last) {
    core::Chain own = std::move(last);
    if (empty() && !keep_all_) {
        bytes_ += own.bytes();
        if (own.empty()) own.add_mark(core::Buffer::last);
        else own.tail()->flags |= core::Buffer::last;
        request_.send(std::move(own));
        return true;
    }
    if (!own.empty() && !send(std::move(own))) request_.cut();
    finishing_ = true;
    if (empty()) {
        finishing_ = false;
        request_.send_last();
        return true;
    }
    wait();
    return false;
}

}  // namespace server
