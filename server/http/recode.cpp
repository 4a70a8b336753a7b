// Charset tables and the recoder.
#include "server/http/recode.h"

#include <algorithm>

#include "core/text.h"

namespace server {

namespace {

constexpr uint32_t incomplete = 0xfffffffe, malformed = 0xffffffff;

// Decodes the character at the front and sets `size` to the bytes it takes. A malformed one takes
// the bytes up to the one that does not fit, so that nothing good is swallowed.
uint32_t decode(core::Slice text, size_t& size) {
    uint8_t first = uint8_t(text[0]);
    size = 1;
    if (first < 0x80) return first;
    if (first < 0xc2 || first >= 0xf8) return malformed;
    size_t wanted = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    uint32_t character = first & (0x7fu >> wanted);
    for (size_t i = 1; i < wanted; ++i) {
        if (i == text.size()) return incomplete;
        uint8_t byte = uint8_t(text[i]);
        if ((byte & 0xc0) != 0x80) return malformed;
        character = character << 6 | (byte & 0x3f);
        size = i + 1;
    }
    constexpr uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    return character < least[wanted] || character > 0x10ffff ? malformed : character;
}

}  // namespace

CharsetTable::CharsetTable(bool to_utf8) : utf8_(to_utf8), sequences_{} {
    for (size_t i = 0; i < 256; ++i) {
        uint8_t same = i < 128 ? uint8_t(i) : uint8_t('?');
        forward_[i] = backward_[i] = same;
        sequences_[i] = {1, {char(same), 0, 0}};
    }
    if (!to_utf8) return;
    pages_[0] = std::make_unique<std::array<uint8_t, 256>>();
    for (size_t i = 0; i < 256; ++i) (*pages_[0])[i] = i < 128 ? uint8_t(i) : 0;
}

void CharsetTable::map(uint8_t from, uint8_t to) {
    forward_[from] = to;
    backward_[to] = from;
}

bool CharsetTable::map_utf8(uint8_t from, core::Slice bytes) {
    if (bytes.empty() || bytes.size() > 3) return false;
    size_t size;
    uint32_t character = decode(bytes, size);
    if (character > 0xffff || size != bytes.size()) return false;
    Sequence& sequence = sequences_[from];
    sequence.size = uint8_t(size);
    std::copy(bytes.begin(), bytes.end(), sequence.bytes);
    auto& page = pages_[character >> 8];
    if (!page) {
        page = std::make_unique<std::array<uint8_t, 256>>();
        page->fill(0);
    }
    (*page)[character & 0xff] = from;
    return true;
}

uint8_t CharsetTable::backward_utf8(uint32_t character) const {
    if (character > 0xffff) return 0;
    auto& page = pages_[character >> 8];
    return page ? (*page)[character & 0xff] : 0;
}

void Recoder::feed(core::Slice text, LineBuffer& out) {
    if (!table_->utf8()) {
        char* to = out.reserve(text.size());
        for (char c : text) {
            uint8_t byte = uint8_t(c);
            *to++ = char(direction_ == forward ? table_->forward(byte) : table_->backward(byte));
        }
        out.advance(text.size());
    } else if (direction_ == forward) {
        for (char c : text) out.append(table_->forward_utf8(uint8_t(c)));
    } else {
        feed_from_utf8(text, out);
    }
}

void Recoder::feed_from_utf8(core::Slice text, LineBuffer& out) {
    size_t size;
    while (held_size_ > 0 && !text.empty()) {
        held_[held_size_++] = text[0];
        text.remove_prefix(1);
        uint32_t character = decode({held_, held_size_}, size);
        if (character == incomplete) continue;
        // The byte that does not fit begins something of its own.
        bool extra = size < held_size_;
        char last = held_[held_size_ - 1];
        held_size_ = 0;
        put_character(character, out);
        if (!extra) break;
        character = decode({&last, 1}, size);
        if (character == incomplete) {
            held_[held_size_++] = last;
        } else {
            put_character(character, out);
        }
    }
    while (!text.empty()) {
        uint32_t character = decode(text, size);
        if (character == incomplete) {
            std::copy(text.begin(), text.end(), held_);
            held_size_ = uint8_t(text.size());
            return;
        }
        put_character(character, out);
        text.remove_prefix(size);
    }
}

void Recoder::put_character(uint32_t character, LineBuffer& out) {
    if (character < 0x80) return out.append(char(character));
    if (character == malformed) return out.append('?');
    if (uint8_t byte = table_->backward_utf8(character)) return out.append(char(byte));
    char digits[24];
    out.append("&#");
    out.append(core::format_unsigned(character, digits));
    out.append(';');
}

}  // namespace server
