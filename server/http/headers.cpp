// Header fields by id and by name. Called for every field of every request, so a name's id is found
// with one hash of its length and four of its bytes, and one comparison.
#include "server/http/headers.h"

#include <array>

#include "core/text.h"

namespace server {
namespace {

constexpr core::Slice names[] = {
    "",
    "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Accept-Ranges", "Age",
    "Allow", "Authorization", "Cache-Control", "Connection", "Content-Disposition",
    "Content-Encoding", "Content-Language", "Content-Length", "Content-Range", "Content-Type",
    "Cookie", "Date", "Depth", "Destination", "Early-Data", "ETag", "Expect", "Expires",
    "Forwarded", "From", "Host", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range",
    "If-Unmodified-Since", "Keep-Alive", "Last-Modified", "Link", "Location", "Origin",
    "Overwrite", "Pragma", "Proxy-Authorization", "Proxy-Connection", "Range", "Referer",
    "Refresh", "Server", "Set-Cookie", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
    "User-Agent", "Vary", "Via", "WWW-Authenticate", "X-Accel-Buffering", "X-Accel-Charset",
    "X-Accel-Expires", "X-Accel-Limit-Rate", "X-Accel-Redirect", "X-Forwarded-For",
    "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP",
};
constexpr size_t known = std::size(names);
static_assert(known == size_t(HeaderId::count));

constexpr size_t table_size = 512;
constexpr size_t longest = 20;

// Case folds with | 0x20: of bytes that may stand in a name only a few clash, and the comparison
// decides anyway.
constexpr size_t slot_of(core::Slice name, uint32_t seed) {
    auto at = [&](size_t i) { return uint32_t(uint8_t(name[i]) | 0x20); };
    size_t size = name.size();
    uint32_t hash = uint32_t(size) + (at(0) << 5) + (at(size / 2) << 11) + (at(size - 1) << 17) +
                    (at(size - 2) << 24);
    return (hash * seed) >> 23;
}

struct Table {
    uint32_t seed = 0;
    std::array<uint8_t, table_size> ids{};
};

constexpr bool fill(Table& table, uint32_t seed) {
    table = {seed, {}};
    for (size_t id = 1; id < known; ++id) {
        uint8_t& slot = table.ids[slot_of(names[id], seed)];
        if (slot) return false;
        slot = uint8_t(id);
    }
    return true;
}

// A multiplier under which no two names share a slot, found by the compiler.
constexpr Table make_table() {
    Table table;
    uint32_t seed = 0x9e3779b1;
    while (!fill(table, seed)) seed = seed * 1664525 + 1013904223;
    return table;
}
constexpr Table table = make_table();

}  // namespace

HeaderId header_id(core::Slice name) {
    if (name.size() < 2 || name.size() > longest) return HeaderId::other;
    uint8_t id = table.ids[slot_of(name, table.seed)];
    if (!id || !core::iequals(name, names[id])) return HeaderId::other;
    return HeaderId(id);
}

core::Slice header_name(HeaderId id) { return names[size_t(id)]; }

void HeaderList::grow(uint32_t capacity) {
    auto* items = arena_->make_array<Header>(capacity);
    for (uint32_t i = 0; i < count_; ++i) items[i] = items_[i];
    items_ = items;
    capacity_ = capacity;
}

Header* HeaderList::extend(uint32_t count) {
    if (count > capacity_ - count_) grow(count_ + count);
    Header* first = items_ + count_;
    count_ += count;
    return first;
}

Header& HeaderList::add(core::Slice name, core::Slice value, HeaderId id) {
    if (count_ == capacity_) [[unlikely]] grow(capacity_ ? capacity_ * 2 : 8);
    note(id);
    Header& item = items_[count_++];
    item = {name, value, id, false};
    return item;
}

namespace {

// Keeps the first of the fields that `same` picks, with the new value; null when there is none.
template <class Same>
Header* replace(const HeaderList& list, core::Slice value, Same same) {
    Header* first = nullptr;
    for (Header& item : list) {
        if (item.removed || !same(item)) continue;
        if (first) {
            item.removed = true;
        } else {
            item.value = value;
            first = &item;
        }
    }
    return first;
}

template <class Same>
size_t remove_all(const HeaderList& list, Same same) {
    size_t removed = 0;
    for (Header& item : list) {
        if (item.removed || !same(item)) continue;
        item.removed = true;
        ++removed;
    }
    return removed;
}

auto by_name(core::Slice name) {
    return [name](const Header& item) {
        return item.id == HeaderId::other && core::iequals(item.name, name);
    };
}

auto by_id(HeaderId id) {
    return [id](const Header& item) { return item.id == id; };
}

}  // namespace

Header& HeaderList::set(core::Slice name, core::Slice value) {
    HeaderId id = header_id(name);
    if (!has(id)) return add(name, value, id);
    Header* first = id == HeaderId::other ? replace(*this, value, by_name(name))
                                          : replace(*this, value, by_id(id));
    if (!first) return add(name, value, id);
    first->name = name;
    return *first;
}

Header& HeaderList::set(HeaderId id, core::Slice value) {
    Header* first = has(id) ? replace(*this, value, by_id(id)) : nullptr;
    return first ? *first : add(header_name(id), value, id);
}

size_t HeaderList::remove(core::Slice name) {
    HeaderId id = header_id(name);
    if (id != HeaderId::other) return remove(id);
    return has(id) ? remove_all(*this, by_name(name)) : 0;
}

size_t HeaderList::remove(HeaderId id) {
    if (!has(id)) return 0;
    forget(id);
    return remove_all(*this, by_id(id));
}

void HeaderList::clear() {
    count_ = 0;
    present_[0] = present_[1] = 0;
}

Header* HeaderList::find(core::Slice name) const {
    HeaderId id = header_id(name);
    if (id != HeaderId::other) return find(id);
    if (!has(id)) return nullptr;
    for (Header& item : *this) {
        if (!item.removed && item.id == id && core::iequals(item.name, name)) return &item;
    }
    return nullptr;
}

Header* HeaderList::find(HeaderId id) const {
    if (!has(id)) return nullptr;
    for (Header& item : *this) {
        if (item.id == id && !item.removed) return &item;
    }
    return nullptr;
}

core::Slice HeaderList::value(HeaderId id) const {
    Header* item = find(id);
    return item ? item->value : core::Slice{};
}

core::Slice HeaderList::joined(core::Slice name, core::Slice separator) const {
    HeaderId id = header_id(name);
    if (!has(id)) return {};
    auto same = [&](const Header& item) {
        return !item.removed && item.id == id &&
               (id != HeaderId::other || core::iequals(item.name, name));
    };
    Header* first = nullptr;
    size_t count = 0, bytes = 0;
    for (Header& item : *this) {
        if (!same(item)) continue;
        if (!first) first = &item;
        bytes += item.value.size() + (count++ ? separator.size() : 0);
    }
    if (!first) return {};
    if (count == 1) return first->value.data() ? first->value : core::Slice("", 0);
    core::Appender to(*arena_, bytes);
    for (Header& item : *this) {
        if (!same(item)) continue;
        if (&item != first) to.append(separator);
        to.append(item.value);
    }
    return to.take();
}

}  // namespace server
