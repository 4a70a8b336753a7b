// Patterns of receive calls; see socket_reading.h.
#include "lua/api/socket_reading.h"

#include <algorithm>
#include <cstring>

namespace lua {

UntilPattern::UntilPattern(core::Slice text, bool inclusive)
    : text_(text), borders_(text.size() + 1, 0), inclusive_(inclusive) {
    size_t border = 0;
    for (size_t i = 1; i < text_.size(); ++i) {
        while (border > 0 && text_[i] != text_[border]) border = borders_[border];
        if (text_[i] == text_[border]) ++border;
        borders_[i + 1] = uint32_t(border);
    }
}

bool Reading::scan(core::Slice unread) {
    switch (kind_) {
    case Kind::line:
        return scan_line(unread);
    case Kind::all:
        return wait(unread.size());
    case Kind::exactly:
        if (unread.size() >= bytes_) return have(bytes_, bytes_);
        return wait(unread.size());
    case Kind::any: {
        size_t bytes = std::min(unread.size(), bytes_);
        return bytes ? have(bytes, bytes) : wait(0);
    }
    case Kind::until:
        return scan_until(unread);
    }
    return false;
}

bool Reading::scan_line(core::Slice unread) {
    const void* end = unread.size() > seen_
                          ? std::memchr(unread.data() + seen_, '\n', unread.size() - seen_)
                          : nullptr;
    seen_ = unread.size();
    if (!end) return bytes_ && seen_ > bytes_ ? refuse_line() : wait(seen_);
    size_t length = size_t(static_cast<const char*>(end) - unread.data());
    return bytes_ && length > bytes_ ? refuse_line() : have(length, length + 1);
}

bool Reading::refuse_line() {
    too_long_ = true;
    return have(0, 0);
}

// Counts bytes of a sized piece; true when it is full.
bool Reading::spend(size_t bytes) {
    if (bytes_ == 0) return false;
    rest_ = rest_ > bytes ? rest_ - bytes : 0;
    return rest_ == 0;
}

// Passes over what cannot begin the pattern. True: the piece is full.
bool Reading::skip_to_first_byte(core::Slice unread) {
    size_t ahead = unread.size() - seen_;
    if (bytes_) ahead = std::min(ahead, rest_);
    const char* from = unread.data() + seen_;
    const void* first = std::memchr(from, pattern_->text()[0], ahead);
    size_t passed = first ? size_t(static_cast<const char*>(first) - from) : ahead;
    seen_ += passed;
    return passed > 0 && spend(passed);
}

// The byte behind the matched ones does not go on with the pattern: what of them is certainly no
// part of it is ours. True: the piece is full.
bool Reading::fall_back(char next) {
    core::Slice pattern = pattern_->text();
    size_t border = pattern_->border(matched_);
    while (border > 0 && pattern[border] != next) border = pattern_->border(border);
    size_t passed = matched_ - border;
    if (border > 0) ++seen_;
    matched_ = border > 0 ? border + 1 : 0;
    return spend(passed);
}

bool Reading::scan_until(core::Slice unread) {
    core::Slice pattern = pattern_->text();
    while (seen_ < unread.size()) {
        if (matched_ == 0) {
            if (skip_to_first_byte(unread)) return have(seen_, seen_);
            if (seen_ == unread.size()) break;
        }
        if (unread[seen_] == pattern[matched_]) {
            ++seen_;
            if (++matched_ < pattern.size()) continue;
            if (bytes_) pattern_->ended = true;
            return have(pattern_->inclusive() ? seen_ : seen_ - matched_, seen_);
        }
        if (fall_back(unread[seen_])) return have(seen_ - matched_, seen_ - matched_);
    }
    return wait(seen_ - matched_);
}

}  // namespace lua
