// Entity tags in If-Match and If-None-Match (RFC 9110 8.8.3).
#pragma once

#include <cstdint>

#include "core/slice.h"

namespace server {

enum class EtagStrength : uint8_t { strong, weak };

// Is `etag` (with its quotes; empty for none) in the list? "*" matches anything, and a weak
// comparison disregards "W/" on both sides.
bool etag_matches(core::Slice list, core::Slice etag, EtagStrength how);

}  // namespace server
