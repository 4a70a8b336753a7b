// Header fields: the list of a request's or response's fields in order, with the well-known ones
// found by an id instead of by name.
#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/slice.h"

namespace server {

// Fields the server itself looks at.
enum class HeaderId : uint8_t {
    other,
    accept, accept_charset, accept_encoding, accept_language, accept_ranges, age, allow,
    authorization, cache_control, connection, content_disposition, content_encoding,
    content_language, content_length, content_range, content_type, cookie, date, depth, destination,
    early_data, etag, expect, expires, forwarded, from, host, if_match, if_modified_since,
    if_none_match, if_range, if_unmodified_since, keep_alive, last_modified, link, location, origin,
    overwrite, pragma, proxy_authorization, proxy_connection, range, referer, refresh, server,
    set_cookie, te, trailer, transfer_encoding, upgrade, user_agent, vary, via, www_authenticate,
    x_accel_buffering, x_accel_charset, x_accel_expires, x_accel_limit_rate, x_accel_redirect,
    x_forwarded_for, x_forwarded_host, x_forwarded_proto, x_real_ip,
    count,
};

HeaderId header_id(core::Slice name);            // case-insensitive; `other` when not known
core::Slice header_name(HeaderId id);            // "Content-Type"

struct Header {
    core::Slice name;     // as received or set
    core::Slice value;
    HeaderId id;
    bool removed;         // kept in place so that indexes stay; never shown
};

// Fields in order of arrival. Names compare case-insensitively. Slices given to add() and set()
// must live as long as the list's arena.
class HeaderList {
  public:
    explicit HeaderList(core::Arena& arena) : arena_(&arena) {}

    Header& add(core::Slice name, core::Slice value, HeaderId id);
    Header& add(core::Slice name, core::Slice value) { return add(name, value, header_id(name)); }
    // Room for `count` more fields that the caller fills in himself, noting the id of each.
    Header* extend(uint32_t count);
    void note(HeaderId id) { present_[size_t(id) / 64] |= 1ull << (size_t(id) % 64); }
    // Replaces the first field of that name and removes the others; adds it when there is none.
    Header& set(core::Slice name, core::Slice value);
    Header& set(HeaderId id, core::Slice value);
    size_t remove(core::Slice name);             // returns how many went
    size_t remove(HeaderId id);
    void clear();

    // First field, null when absent.
    Header* find(core::Slice name) const;
    Header* find(HeaderId id) const;
    core::Slice value(HeaderId id) const;        // of the first field; empty when absent
    bool has(HeaderId id) const { return (present_[size_t(id) / 64] >> (size_t(id) % 64)) & 1; }
    // All values joined by ", " (or "; " for Cookie) in the arena; a single one is not copied.
    // Not found: a slice with a null data().
    core::Slice joined(core::Slice name, core::Slice separator) const;

    Header* begin() const { return items_; }
    Header* end() const { return items_ + count_; }
    size_t size() const { return count_; }       // removed ones included
    core::Arena& arena() const { return *arena_; }

  private:
    void grow(uint32_t capacity);
    void forget(HeaderId id) { present_[size_t(id) / 64] &= ~(1ull << (size_t(id) % 64)); }

    core::Arena* arena_;
    Header* items_ = nullptr;
    uint32_t count_ = 0;
    uint32_t capacity_ = 0;
    uint64_t present_[2] = {};   // ids that may be in the list
};
static_assert(size_t(HeaderId::count) <= 128);

}  // namespace server
