// MurmurHash2 with seed 0: the hash of split_clients (and of consistent choices that must agree
// with nginx's).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/slice.h"

namespace server {

inline uint32_t murmur_hash2(core::Slice text) {
    constexpr uint32_t factor = 0x5bd1e995;
    uint32_t hash = uint32_t(text.size());
    size_t at = 0;
    for (; text.size() - at >= 4; at += 4) {
        uint32_t word = uint32_t(uint8_t(text[at])) | uint32_t(uint8_t(text[at + 1])) << 8 |
                        uint32_t(uint8_t(text[at + 2])) << 16 |
                        uint32_t(uint8_t(text[at + 3])) << 24;
        word *= factor;
        word ^= word >> 24;
        hash = hash * factor ^ word * factor;
    }
    size_t left = text.size() - at;
    if (left > 2) hash ^= uint32_t(uint8_t(text[at + 2])) << 16;
    if (left > 1) hash ^= uint32_t(uint8_t(text[at + 1])) << 8;
    if (left > 0) hash = (hash ^ uint8_t(text[at])) * factor;
    hash ^= hash >> 13;
    hash *= factor;
    return hash ^ hash >> 15;
}

}  // namespace server
