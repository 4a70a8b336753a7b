// Normalising request targets. Most are plain: one scan says so, and nothing is copied. The rules
// for the others are nginx's: an encoded '/' or '.' counts as the byte itself, an encoded '%', '#'
// or '?' is ordinary text.
#include "server/http/uri.h"

#include <array>
#include <cstring>

#include "core/text.h"
#include "server/http/escape.h"

namespace server {

namespace {

using core::Slice;

// Bytes at which the scan for plain targets has to look closer.
constexpr std::array<bool, 256> special = [] {
    std::array<bool, 256> table{};
    for (char c : Slice("/.?#%")) table[uint8_t(c)] = true;
    table[0] = true;
    return table;
}();

struct Scan {
    size_t path_end;
    bool plain;
};

// Finds the end of the path; plain: it holds nothing to decode, merge or resolve.
Scan scan_path(Slice target, bool merge_slashes) {
    bool after_slash = false, plain = target.starts_with('/');
    for (size_t i = 0; i < target.size(); ++i) {
        char c = target[i];
        if (!special[uint8_t(c)]) {
            after_slash = false;
            continue;
        }
        switch (c) {
        case '/':
            if (after_slash && merge_slashes) plain = false;
            after_slash = true;
            continue;
        case '?':
        case '#': return {i, plain};
        case '.':
            if (after_slash) plain = false;
            break;
        default: plain = false;
        }
        after_slash = false;
    }
    return {target.size(), plain};
}

// The path being built. `segment` is where the segment after the last slash begins.
class PathBuilder {
  public:
    PathBuilder(char* room, bool merge_slashes) : room_(room), merge_slashes_(merge_slashes) {
        room_[end_++] = '/';
        segment_ = end_;
    }

    void text(char c) { room_[end_++] = c; }

    // False when ".." climbs above the root.
    bool slash() {
        if (!close_segment()) return false;
        if (segment_ == end_ && merging_) return true;
        room_[end_++] = '/';
        segment_ = end_;
        return true;
    }

    // Resolves "." and ".." in the segment that ends here. Afterwards the path ends with the slash
    // before it if it was one of those.
    bool close_segment() {
        Slice segment(room_ + segment_, end_ - segment_);
        merging_ = merge_slashes_;
        if (segment == ".") {
            end_ = segment_;
            merging_ = true;
        } else if (segment == "..") {
            if (segment_ == 1) return false;
            end_ = segment_ - 1;
            while (room_[end_ - 1] != '/') --end_;
            segment_ = end_;
            merging_ = true;
        }
        return true;
    }

    Slice path() const { return {room_, end_}; }

  private:
    char* room_;
    size_t end_ = 0;
    size_t segment_ = 0;
    bool merge_slashes_;
    bool merging_ = false;     // an empty segment here adds no slash
};

bool build_path(Slice encoded, PathBuilder& path) {
    size_t from = encoded.starts_with('/') ? 1 : 0;
    for (size_t i = from; i < encoded.size(); ++i) {
        char c = encoded[i];
        if (c == '\0') return false;
        if (c == '%') {
            if (i + 2 >= encoded.size()) return false;
            int high = core::hex_value(encoded[i + 1]), low = core::hex_value(encoded[i + 2]);
            if (high < 0 || low < 0) return false;
            c = char(high * 16 + low);
            if (c == '\0') return false;
            i += 2;
        }
        if (c != '/') {
            path.text(c);
        } else if (!path.slash()) {
            return false;
        }
    }
    return path.close_segment();
}

}  // namespace

bool normalize_uri(Slice target, bool merge_slashes, core::Arena& arena, NormalizedUri& to) {
    auto [path_end, plain] = scan_path(target, merge_slashes);
    to.args = {};
    if (path_end < target.size() && target[path_end] == '?') {
        Slice args = target.substr(path_end + 1);
        to.args = args.substr(0, args.find('#'));
    }
    to.plain = plain;
    if (plain) {
        to.path = target.substr(0, path_end);
        return true;
    }
    char* room = arena.bytes(path_end + 1);
    PathBuilder path(room, merge_slashes);
    if (!build_path(target.substr(0, path_end), path)) return false;
    to.path = path.path();
    return true;
}

namespace {

bool has_parent_segment(Slice path) {
    for (size_t at = 0; at < path.size();) {
        size_t end = path.find('/', at);
        if (end == Slice::npos) end = path.size();
        if (path.substr(at, end - at) == "..") return true;
        at = end + 1;
    }
    return false;
}

bool is_unsafe(Slice path) {
    return path.empty() || path.find('\0') != Slice::npos || has_parent_segment(path);
}

}  // namespace

bool split_internal_uri(core::Arena& arena, Slice& uri, Slice& args) {
    size_t question = uri.find('?');
    args = question == Slice::npos ? Slice{} : uri.substr(question + 1);
    Slice path = uri.substr(0, question);
    if (is_unsafe(path)) return false;
    path = unescape(arena, path, false);
    if (is_unsafe(path)) return false;
    uri = path;
    return true;
}

}  // namespace server
