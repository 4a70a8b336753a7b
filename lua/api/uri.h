// Escaping of URIs and query strings for the other topics of the Lua API.
#pragma once

#include <cstddef>

#include "core/arena.h"
#include "core/slice.h"

namespace lua {

// What is to be escaped for; the numbers are those ngx.escape_uri takes (0 to 6).
enum class Escape : int {
    uri, args, component, html, refresh, memcached, mail_auth, header_name, header_value, set_args,
};

size_t escaped_length(core::Slice text, Escape kind);
// Writes escaped_length() bytes and returns the end.
char* escape_into(char* to, core::Slice text, Escape kind);
// An escaped copy in the arena.
core::Slice escape_in(core::Arena& arena, core::Slice text, Escape kind);
// Decodes %XX and '+'; at most text.size() bytes. `to` may be the text itself.
size_t unescape_into(char* to, core::Slice text);

// Walks "a=1&b&c=2". Keys and values are undecoded.
class ArgumentReader {
  public:
    explicit ArgumentReader(core::Slice text) : text_(text) {}
    bool next(core::Slice& key, core::Slice& value, bool& has_value);
    // Did a separator follow what was read last?
    bool more() const { return !done_; }

  private:
    core::Slice text_;
    size_t at_ = 0;
    bool done_ = false;
};

}  // namespace lua
