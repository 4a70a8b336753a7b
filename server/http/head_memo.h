// HeadMemo: header blocks that came before, with what parsing them gave. Clients on a kept
// connection send the same fields with every request, and clients of one kind send the same on all
// of theirs: comparing the bytes costs a fraction of parsing them.
//
// Only blocks whose meaning depends on nothing but their bytes are kept: no body, one valid Host,
// only plain names, lines ended by CRLF. Used by h1_head.cpp; knows nothing of connections.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "core/slice.h"
#include "server/http/headers.h"

namespace server {

class Request;

class HeadMemo {
  public:
    static constexpr size_t block_bytes_max = 1024;
    static constexpr size_t fields_max = 24;

    // A run of bytes of the block.
    struct Part {
        uint16_t at = 0;
        uint16_t size = 0;
        core::Slice in(const char* block) const { return {block + at, size}; }
    };
    struct Field {
        Part name, value;
        HeaderId id = HeaderId::other;
    };
    struct Entry {
        uint64_t hash = 0;             // of the block; 0: nothing is kept here
        uint16_t size = 0;             // of the block, the blank line included
        uint16_t longest_line = 0;     // without its line end
        uint8_t count = 0;
        Part host, port;               // of the Host field
        std::array<Field, fields_max> fields;
        char block[block_bytes_max];

        // Whether `bytes` begin with this block.
        bool begins(core::Slice bytes) const {
            return hash && bytes.starts_with(core::Slice(block, size));
        }
        // Fills in what parsing the block would: `at` is its place in the request's memory.
        void apply(Request& request, const char* at) const;
    };

    // The entry of exactly this block; null when it is not known.
    const Entry* find(core::Slice block) const;
    // Takes note of a block that `request` was parsed from; the second time in a row that one asks
    // for a slot it is kept. Returns its entry, null when it is not kept.
    const Entry* learn(core::Slice block, const Request& request);

  private:
    static constexpr size_t slots = 64;
    struct Slot {
        uint64_t candidate = 0;        // hash of the last block that was not kept
        std::unique_ptr<Entry> entry;
    };
    std::array<Slot, slots> slots_;
};

}  // namespace server
