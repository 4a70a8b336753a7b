// The request body: memory first, a temporary file past client_body_buffer_size.
#include "server/http/body.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "server/http/core_conf.h"
#include "server/http/exchange.h"
#include "server/http/request.h"

namespace server {

namespace {

std::string temp_folder(const Request& request) {
    const auto& path = request.core().client_body_temp_path;
    std::string folder = path.is_set && !path->path.empty() ? path->path : "client_body_temp";
    if (folder[0] != '/') folder = Configuration::current().options().prefix + folder;
    return folder;
}

// Creates a file that only we can read; `path` gets its name.
int create_temp_file(const Request& request, std::string& path) {
    std::string folder = temp_folder(request);
    for (int attempt = 0; attempt < 2; ++attempt) {
        path = folder + "/XXXXXX";
        int fd = mkostemp(path.data(), O_CLOEXEC);
        if (fd >= 0 || errno != ENOENT) return fd;
        if (mkdir(folder.c_str(), 0700) < 0 && errno != EEXIST) return -1;
    }
    return -1;
}

}  // namespace

RequestBody::~RequestBody() { clear_content(); }

void RequestBody::clear_content() {
    buffers_.clear();
    if (file_) {
        if (remove_file_ && !file_path_.empty()) ::unlink(file_path_.data());
        file_->drop();
        file_ = nullptr;
        file_path_ = {};
    }
    single_ = nullptr;
    single_room_ = 0;
    size_ = 0;
}

void RequestBody::begin(Request& request, const Options& options) {
    options_ = options;
    const CoreConf& conf = request.core();
    if (*conf.client_body_in_file_only != BodyFile::off) {
        options_.in_file_only = true;
        options_.clean_file = *conf.client_body_in_file_only == BodyFile::clean;
    }
    memory_max_ = conf.client_body_buffer_size->count;
    remove_file_ = options_.clean_file;
    state_ = State::reading;
}

Verdict RequestBody::read(Request& request, const Options& options, Done done, void* argument) {
    switch (state_) {
        case State::complete:
        case State::discarding:
        case State::discarded: return Verdict::pass();
        case State::failed: return Verdict::reject(fail_status_);
        case State::reading: break;
        case State::untouched:
            begin(request, options);
            if (!present()) {
                received_all_ = true;
                state_ = State::complete;
                return Verdict::pass();
            }
            request.exchange->want_body(request, true);
            break;
    }
    if (state_ == State::complete) return Verdict::pass();
    if (state_ == State::failed) return Verdict::reject(fail_status_);
    done_ = done;
    done_argument_ = argument;
    return Verdict::suspend();
}

Verdict RequestBody::read_unbuffered(Request& request, More more, void* argument) {
    if (state_ == State::untouched) {
        begin(request, {});
        unbuffered_ = true;
        if (!present()) {
            received_all_ = true;
            state_ = State::complete;
            return Verdict::pass();
        }
        request.exchange->want_body(request, true);
    }
    if (state_ == State::failed) return Verdict::reject(fail_status_);
    if (!buffers_.empty() || received_all_) return Verdict::pass();
    done_ = more;
    done_argument_ = argument;
    request.exchange->want_body(request, true);
    return Verdict::suspend();
}

core::Chain RequestBody::take_pending() { return std::move(buffers_); }

void RequestBody::discard(Request& request) {
    if (state_ == State::untouched && present()) {
        state_ = State::discarding;
    } else if (state_ == State::reading) {
        done_ = nullptr;
        state_ = received_all_ ? State::discarded : State::discarding;
        clear_content();
    }
    (void)request;
}

int RequestBody::file_fd() const { return file_ ? file_->fd : -1; }

core::Slice RequestBody::text(Request& request) {
    if (file_) {
        char* room = request.arena.bytes(size_t(size_));
        int64_t got = 0;
        while (got < size_) {
            ssize_t n = ::pread(file_->fd, room + got, size_t(size_ - got), got);
            if (n <= 0) break;
            got += n;
        }
        return {room, size_t(got)};
    }
    core::Buffer* first = buffers_.head();
    if (!first) return {};
    if (!first->next) return first->text();
    char* room = request.arena.bytes(size_t(size_));
    char* at = room;
    for (core::Buffer* each = first; each; each = each->next) {
        std::memcpy(at, each->begin, size_t(each->size()));
        at += each->size();
    }
    core::Slice joined{room, size_t(at - room)};
    buffers_.clear();
    buffers_.add_from_request(joined);
    return joined;
}

void RequestBody::set_text(Request&, core::Slice body) {
    clear_content();
    if (!body.empty()) buffers_.add_from_request(body);
    size_ = content_length = int64_t(body.size());
    chunked = false;
    state_ = State::complete;
}

void RequestBody::set_file(Request& request, core::Slice path, int fd, bool remove_after) {
    clear_content();
    struct stat info;
    size_ = fstat(fd, &info) == 0 ? info.st_size : 0;
    content_length = size_;
    chunked = false;
    file_ = core::OpenFile::adopt(fd);
    file_path_ = request.arena.copy_z(path);
    remove_file_ = remove_after;
    state_ = State::complete;
}

void RequestBody::start_new(Request& request, int64_t buffer_bytes) {
    clear_content();
    begin(request, {});
    content_length = -1;
    chunked = false;
    memory_max_ = buffer_bytes;
    options_.in_file_only = buffer_bytes == 0;
    state_ = State::complete;
}

bool RequestBody::append(Request& request, core::Slice bytes) {
    if (bytes.empty()) return true;
    size_ += int64_t(bytes.size());
    return store(request, bytes);
}

void RequestBody::finish_new(Request&) {
    content_length = size_;
    state_ = State::complete;
}

void RequestBody::share(const RequestBody& other) {
    clear_content();
    for (core::Buffer* at = other.buffers_.head(); at; at = at->next) {
        if (at->owner) at->owner->hold();
        buffers_.add(at->text(), at->owner, core::Buffer::in_request);
    }
    if (other.file_) {
        other.file_->hold();
        file_ = other.file_;
        file_path_ = other.file_path_;
        remove_file_ = false;
    }
    size_ = content_length = other.size_;
    received_all_ = true;
    state_ = State::complete;
}

void RequestBody::become(const RequestBody& made) {
    bool all = received_all_;
    share(made);
    received_all_ = all;
    unbuffered_ = false;
}

void RequestBody::receive(Request& request, core::Slice bytes, bool last) {
    if (last) received_all_ = true;
    if (state_ != State::reading) {
        bool over = state_ == State::failed || state_ == State::complete;
        if (last && !over) state_ = State::discarded;
        return;
    }
    size_ += int64_t(bytes.size());
    int64_t most = request.core().client_max_body_size->count;
    if (most > 0 && size_ > most) {
        LOG(request.log, error, 0, "client intended to send too large %sbody: %lld bytes",
            chunked ? "chunked " : "", static_cast<long long>(size_));
        return fail(request, 413);
    }
    if (!bytes.empty() && !store(request, bytes)) return fail(request, 500);
    if (last) {
        state_ = State::complete;
        if (options_.in_file_only && !file_ && !unbuffered_ && !spill(request)) {
            return fail(request, 500);
        }
    }
    if (unbuffered_) {
        if (!last && buffers_.bytes() > memory_max_) request.exchange->want_body(request, false);
        settle(request, Verdict::pass());
    } else if (last) {
        settle(request, Verdict::pass());
    }
}

void RequestBody::fail(Request& request, int status) {
    if (state_ != State::reading) return;
    state_ = State::failed;
    fail_status_ = status;
    request.keep_alive = false;
    settle(request, Verdict::reject(status));
}

void RequestBody::settle(Request& request, Verdict verdict) {
    Done done = std::exchange(done_, nullptr);
    if (done) done(request, done_argument_, verdict);
}

bool RequestBody::store(Request& request, core::Slice bytes) {
    if (unbuffered_) {
        buffers_.add_copy(bytes);
        return true;
    }
    if (file_) return write_file(request, bytes);
    if (size_ > memory_max_ || options_.in_file_only) {
        return spill(request) && write_file(request, bytes);
    }
    return store_in_memory(request, bytes);
}

bool RequestBody::store_in_memory(Request& request, core::Slice bytes) {
    if (!single_ && buffers_.empty() && content_length > 0 && content_length <= memory_max_) {
        single_ = request.arena.bytes(size_t(content_length));
        single_room_ = content_length;
        buffers_.add_from_request({single_, 0});
    }
    if (single_room_ >= int64_t(bytes.size())) {
        std::memcpy(single_, bytes.data(), bytes.size());
        single_ += bytes.size();
        single_room_ -= int64_t(bytes.size());
        buffers_.tail()->end = single_;
        return true;
    }
    buffers_.add_copy(bytes);
    return true;
}

bool RequestBody::spill(Request& request) {
    std::string path;
    int fd = create_temp_file(request, path);
    if (fd < 0) {
        LOG(request.log, crit, errno, "open() \"%s\" failed", path.c_str());
        return false;
    }
    LOG(request.log, warn, 0, "a client request body is buffered to a temporary file %s",
        path.c_str());
    file_ = core::OpenFile::adopt(fd);
    file_path_ = request.arena.copy_z(path);
    for (core::Buffer* at = buffers_.head(); at; at = at->next) {
        if (!write_file(request, at->text())) return false;
    }
    buffers_.clear();
    single_ = nullptr;
    single_room_ = 0;
    return true;
}

bool RequestBody::write_file(Request& request, core::Slice bytes) {
    while (!bytes.empty()) {
        ssize_t n = ::write(file_->fd, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            LOG(request.log, crit, n < 0 ? errno : ENOSPC, "write() \"%s\" failed",
                file_path_.data());
            return false;
        }
        bytes.remove_prefix(size_t(n));
    }
    return true;
}

}  // namespace server
