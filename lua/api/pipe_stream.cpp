// Reading from and writing to a child process: see the header.
#include "lua/api/pipe_stream.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/log.h"

namespace lua {

void PipeStream::close() {
    watch_.stop();
    fd_.reset();
}

bool PipeStream::watch() {
    if (watch_.active()) return true;
    return bool(watch_.start(fd_.get(), *this));
}

void PipeStream::on_io(uint8_t) {
    if (waiter) waiter->go_on();
}

PipeStream::State PipeStream::fail_with_errno() {
    error_ = errno;
    return fail(Failure::system);
}

std::string PipeStream::failure_text() const {
    switch (failure) {
    case Failure::closed: return "closed";
    case Failure::timeout: return "timeout";
    case Failure::aborted: return "aborted";
    case Failure::system: return core::error_name(error_);
    case Failure::none: break;
    }
    return "";
}

// ---- reading ----

void PipeReader::begin(Until until, size_t count) {
    until_ = until;
    wanted_ = count;
    failure = Failure::none;
    if (!buffer_) buffer_ = std::make_unique<char[]>(size_);
}

PipeStream::State PipeReader::advance() {
    for (;;) {
        if (there() || ended_) {
            State state = take();
            if (state != State::again) return state;
        }
        ssize_t got = ::read(fd_.get(), buffer_.get(), size_);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno == EAGAIN ? State::again : fail_with_errno();
        ended_ = got == 0;
        at_ = 0;
        last_ = size_t(got);
    }
}

void PipeReader::take_bytes(size_t count) {
    taken.append(buffer_.get() + at_, count);
    at_ += count;
}

// Moves what belongs to the answer out of the buffer, which is empty when more is wanted.
PipeStream::State PipeReader::take() {
    size_t count = std::min(there(), wanted_);
    if (ended_ && !there()) return until_ == all ? State::done : fail(Failure::closed);
    switch (until_) {
    case all:
        take_bytes(there());
        return State::again;
    case bytes:
        take_bytes(count);
        wanted_ -= count;
        return wanted_ ? State::again : State::done;
    case line: return take_line();
    case any: take_bytes(count); return State::done;
    }
    return State::done;
}

// Up to the LF; CRs are left out wherever they stand, as upstream does.
PipeStream::State PipeReader::take_line() {
    const char* from = buffer_.get() + at_;
    auto* end = static_cast<const char*>(std::memchr(from, '\n', there()));
    size_t count = end ? size_t(end - from) : there();
    size_t before = taken.size();
    take_bytes(count);
    taken.erase(std::remove(taken.begin() + ptrdiff_t(before), taken.end(), '\r'), taken.end());
    if (!end) return State::again;
    ++at_;
    return State::done;
}

// ---- writing ----

void PipeWriter::begin(core::Slice text) {
    left_ = text;
    size_ = text.size();
    kept_.clear();
    failure = Failure::none;
}

PipeStream::State PipeWriter::advance() {
    while (!left_.empty()) {
        ssize_t put = ::write(fd_.get(), left_.data(), left_.size());
        if (put >= 0) {
            left_.remove_prefix(size_t(put));
            continue;
        }
        if (errno == EINTR) continue;
        if (errno == EPIPE) return fail(Failure::closed);
        if (errno != EAGAIN) return fail_with_errno();
        if (kept_.empty()) {
            kept_ = left_;
            left_ = kept_;
        }
        return State::again;
    }
    return State::done;
}

}  // namespace lua
