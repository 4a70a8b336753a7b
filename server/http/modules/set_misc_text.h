// The text functions behind the set_* directives: quoting for SQL and JSON, base32, hex.
#pragma once

#include "core/arena.h"
#include "core/slice.h"

namespace server {

core::Slice quote_sql(core::Arena& arena, core::Slice text);      // 'it\'s'; '' when empty
core::Slice quote_pgsql(core::Arena& arena, core::Slice text);    // E'…', escapes non-UTF-8
core::Slice quote_json(core::Arena& arena, core::Slice text);     // "…"; null when empty
// `alphabet` has 32 bytes.
core::Slice encode_base32(core::Arena& arena, core::Slice bytes, core::Slice alphabet,
                          bool padding);
core::Slice decode_base32(core::Arena& arena, core::Slice text, core::Slice alphabet);  // null: no
core::Slice encode_hex(core::Arena& arena, core::Slice bytes);
core::Slice decode_hex(core::Arena& arena, core::Slice text);     // null data: malformed
core::Slice escape_component_loosely(core::Arena& arena, core::Slice text);   // set_escape_uri

}  // namespace server
