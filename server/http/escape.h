// Percent-escaping of URIs and their parts, HTML and JSON escaping: shared by redirects, rewrite,
// log formats and Lua's escape functions.
#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/slice.h"

namespace server {

// Which bytes become %XX; control bytes, space and everything from 0x7f on do in all kinds but the
// last two. Order and contents are those of nginx's escaping types.
enum class Escape : uint8_t {
    uri,            // a path: also " # % < > ? \ ^ ` { | }
    args,           // a query argument: the same, and & + ;
    uri_component,  // everything but letters, digits and - . _ ~
    html,           // a URI inside an attribute: " # % ' < > \ ^ ` { | }
    refresh,        // a URI in a Refresh header: " ' < > \ ^ ` { | ~
    memcached,      // a key: control bytes, space and %
    mail_auth,      // the same
};

// How many bytes of `text` are escaped (the result has two bytes more for each).
size_t count_escapes(core::Slice text, Escape kind);
// Writes the escaped text (text.size() + 2 * count_escapes() bytes); returns its end.
char* escape_into(char* to, core::Slice text, Escape kind);
// Not copied when nothing has to be escaped.
core::Slice escape(core::Arena& arena, core::Slice text, Escape kind);

// The two kinds most often meant.
enum class UriEscape : uint8_t { path, component };
inline core::Slice escape_uri(core::Arena& arena, core::Slice text,
                              UriEscape how = UriEscape::path) {
    return escape(arena, text, how == UriEscape::path ? Escape::uri : Escape::uri_component);
}

// %XX becomes a byte, anything malformed stays as it is; with `plus`, '+' becomes a space. Writes
// at most text.size() bytes; returns the end. `to` may be text.data() itself.
char* unescape_into(char* to, core::Slice text, bool plus);
core::Slice unescape(core::Arena& arena, core::Slice text, bool plus);

// "<" becomes "&lt;" and so on ("&", ">", "\"").
core::Slice escape_html(core::Arena& arena, core::Slice text);
// The inside of a JSON string: quotes, backslashes and control bytes.
core::Slice escape_json(core::Arena& arena, core::Slice text);

}  // namespace server
