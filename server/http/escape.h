// Escaping text for URIs, HTML and JSON, as nginx does it. Results are in the given arena; text that
// needs no escaping is returned as it is.
#pragma once

#include "core/arena.h"
#include "core/slice.h"

namespace server {

enum class UriEscape : uint8_t {
    path,         // for Location: controls, space, "#%<>?\^`{|} and everything from DEL on
    component,    // everything but letters, digits and -._~
};

core::Slice escape_uri(core::Arena& arena, core::Slice text, UriEscape how = UriEscape::path);
core::Slice escape_html(core::Arena& arena, core::Slice text);      // & < > "
core::Slice escape_json(core::Arena& arena, core::Slice text);      // " \ and controls

}  // namespace server
