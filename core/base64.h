// Base64 (RFC 4648), standard and URL-safe alphabets, with or without padding.
#pragma once

#include <cstddef>

#include "core/arena.h"
#include "core/slice.h"

namespace core {

constexpr size_t base64_encoded_bytes(size_t bytes) { return (bytes + 2) / 3 * 4; }
constexpr size_t base64_decoded_bytes_max(size_t bytes) { return (bytes + 3) / 4 * 3; }

// Writes at most base64_encoded_bytes(); returns the end.
char* encode_base64_into(char* to, Slice bytes, bool padding = true, bool url_safe = false);
// Writes at most base64_decoded_bytes_max(); returns the end, null when malformed. Padding may be
// missing; what follows it does not count.
char* decode_base64_into(char* to, Slice text, bool url_safe = false);

Slice encode_base64(Arena& arena, Slice bytes);
Slice decode_base64(Arena& arena, Slice text);   // null data: malformed

}  // namespace core
