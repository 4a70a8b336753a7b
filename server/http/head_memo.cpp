// Remembering header blocks. An entry is found by a hash of the whole block and trusted only after
// comparing every byte.
#include "server/http/head_memo.h"

#include <algorithm>
#include <cstring>

#include "server/http/h1_head.h"
#include "server/http/request.h"

namespace server {

namespace {

uint64_t mix(uint64_t state, uint64_t word) {
    state = (state ^ word) * 0x9fb21c651e98df25ull;
    return state ^ (state >> 32);
}

// Never 0. Collisions cost a parse, nothing else.
uint64_t hash_of(core::Slice block) {
    uint64_t state = block.size(), word;
    const char* at = block.data();
    size_t left = block.size();
    for (; left >= 8; left -= 8, at += 8) {
        std::memcpy(&word, at, 8);
        state = mix(state, word);
    }
    word = 0;
    std::memcpy(&word, at, left);
    return mix(state, word) | 1;
}

size_t slot_of(uint64_t hash, size_t slots) { return (hash >> 40) % slots; }

// Where `part` stands in `block`. False: it is not part of it.
bool locate(core::Slice block, core::Slice part, HeadMemo::Part& to) {
    if (part.empty()) {
        to = {};
        return true;
    }
    if (part.data() < block.data() || part.data() + part.size() > block.data() + block.size()) {
        return false;
    }
    to = {uint16_t(part.data() - block.data()), uint16_t(part.size())};
    return true;
}

// False when the block's meaning depends on more than its bytes.
bool describe(core::Slice block, const Request& request, HeadMemo::Entry& entry) {
    const HeaderList& headers = request.headers;
    if (headers.size() > HeadMemo::fields_max) return false;
    entry.count = 0;
    for (const Header& header : headers) {
        HeadMemo::Field& field = entry.fields[entry.count++];
        field.id = header.id;
        // Names with other bytes are taken or dropped as the configuration says.
        if (header.id == HeaderId::other && !is_plain_name(header.name, false)) return false;
        if (!locate(block, header.name, field.name)) return false;
        if (!locate(block, header.value, field.value)) return false;
    }
    size_t lines = 0, longest = 0;
    for (size_t at = 0; at < block.size(); ++lines) {
        size_t end = block.find('\n', at);
        longest = std::max(longest, end - at - 1);
        at = end + 1;
    }
    entry.longest_line = uint16_t(longest);
    bool whole = lines == headers.size() + 1;      // no field was dropped
    return whole && locate(block, request.head.host, entry.host) &&
           locate(block, request.head.host_port, entry.port);
}

bool may_be_kept(core::Slice block, const Request& request) {
    const HeaderList& headers = request.headers;
    return block.size() <= HeadMemo::block_bytes_max && !request.body.present() &&
           !headers.has(HeaderId::content_length) && headers.has(HeaderId::host) &&
           !headers.has(HeaderId::expect);
}

}  // namespace

void HeadMemo::Entry::apply(Request& request, const char* at) const {
    Header* to = request.headers.extend(count);
    for (const Field* field = fields.data(); field != fields.data() + count; ++field, ++to) {
        *to = {field->name.in(at), field->value.in(at), field->id, false};
        request.headers.note(field->id);
    }
    if (!request.head.host.empty()) return;        // an absolute target names the host
    request.head.host = host.in(at);
    request.head.host_port = port.in(at);
}

const HeadMemo::Entry* HeadMemo::find(core::Slice block) const {
    if (block.size() > block_bytes_max) return nullptr;
    uint64_t hash = hash_of(block);
    const Entry* entry = slots_[slot_of(hash, slots)].entry.get();
    bool same = entry && entry->hash == hash && entry->size == block.size() && entry->begins(block);
    return same ? entry : nullptr;
}

const HeadMemo::Entry* HeadMemo::learn(core::Slice block, const Request& request) {
    if (!may_be_kept(block, request)) return nullptr;
    uint64_t hash = hash_of(block);
    Slot& slot = slots_[slot_of(hash, slots)];
    if (slot.candidate != hash) {
        slot.candidate = hash;
        return nullptr;
    }
    if (!slot.entry) slot.entry = std::make_unique<Entry>();
    Entry& entry = *slot.entry;
    entry.hash = 0;
    if (!describe(block, request, entry)) return nullptr;
    std::memcpy(entry.block, block.data(), block.size());
    entry.size = uint16_t(block.size());
    entry.hash = hash;
    return &entry;
}

}  // namespace server
