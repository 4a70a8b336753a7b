// The allocator of shared-memory zones. Links are page numbers, so that nothing here depends on the
// address but what callers keep.
#include <algorithm>
#include <bit>
#include <cstring>

#include "core/shm.h"

namespace core {

Slab* Slab::create(void* memory, size_t bytes) {
    if (bytes < sizeof(Slab) + sizeof(Page) + page_bytes) return nullptr;
    auto* slab = static_cast<Slab*>(memory);
    // The memory begins somewhere in a page; pages begin behind the table, at a page boundary.
    auto start = reinterpret_cast<uintptr_t>(memory);
    uintptr_t end = (start + bytes) & ~uintptr_t(page_bytes - 1);
    size_t count = (bytes - sizeof(Slab)) / (page_bytes + sizeof(Page));
    while (count && start + sizeof(Slab) + count * sizeof(Page) > end - count * page_bytes) --count;
    if (!count) return nullptr;
    slab->bytes_ = end - start;
    slab->pages_ = uint32_t(std::min<size_t>(count, no_page - 1));
    slab->reset();
    return slab;
}

char* Slab::base() const {
    auto start = reinterpret_cast<uintptr_t>(this);
    return reinterpret_cast<char*>(start + bytes_ - size_t(pages_) * page_bytes);
}

void Slab::reset() {
    free_pages_ = 0;
    used_bytes_ = 0;
    failures_ = 0;
    bin_bits_ = 0;
    std::fill(std::begin(bin_), std::end(bin_), no_page);
    std::fill(std::begin(with_room_), std::end(with_room_), no_page);
    give_run(0, pages_);
}

int Slab::class_of(size_t bytes) {
    return bytes <= (1u << shift_min) ? 0 : std::bit_width(bytes - 1) - shift_min;
}

void Slab::link(uint32_t& head, uint32_t page) {
    Page& it = table()[page];
    it.prev = no_page;
    it.next = head;
    if (head != no_page) table()[head].prev = page;
    head = page;
}

void Slab::unlink(uint32_t& head, uint32_t page) {
    Page& it = table()[page];
    if (it.next != no_page) table()[it.next].prev = it.prev;
    if (it.prev != no_page) {
        table()[it.prev].next = it.next;
    } else {
        head = it.next;
    }
}

void Slab::add_free_run(uint32_t page, uint32_t length) {
    Page& first = table()[page];
    Page& last = table()[page + length - 1];
    first.kind = last.kind = idle;
    first.length = last.length = length;
    int bin = bin_of(length);
    link(bin_[bin], page);
    bin_bits_ |= uint64_t(1) << bin;
    free_pages_ += length;
}

void Slab::remove_free_run(uint32_t page) {
    int bin = bin_of(table()[page].length);
    unlink(bin_[bin], page);
    if (bin_[bin] == no_page) bin_bits_ &= ~(uint64_t(1) << bin);
    free_pages_ -= table()[page].length;
}

// The first page of a free run of at least `length` pages.
uint32_t Slab::find_run(uint32_t length) const {
    uint64_t candidates = bin_bits_ >> bin_of(length) << bin_of(length);
    if (candidates) {
        int bin = std::countr_zero(candidates);
        if (bin < bins - 1) return bin_[bin];
    }
    for (uint32_t page = bin_[bins - 1]; page != no_page; page = table()[page].next) {
        if (table()[page].length >= length) return page;
    }
    return no_page;
}

uint32_t Slab::take_run(uint32_t length) {
    uint32_t page = find_run(length);
    if (page == no_page) return no_page;
    uint32_t whole = table()[page].length;
    remove_free_run(page);
    if (whole > length) add_free_run(page + length, whole - length);
    Page& first = table()[page];
    first.kind = run;
    first.length = length;
    for (uint32_t i = 1; i < length; ++i) table()[page + i].kind = inside;
    return page;
}

void Slab::give_run(uint32_t page, uint32_t length) {
    // Pages in the middle of a free run are never looked at but as neighbours: only its ends count.
    for (uint32_t i = 0; i < length; ++i) table()[page + i].kind = inside;
    if (page + length < pages_ && table()[page + length].kind == idle) {
        uint32_t behind = page + length;
        length += table()[behind].length;
        remove_free_run(behind);
        table()[behind].kind = inside;
    }
    if (page > 0 && table()[page - 1].kind == idle) {
        uint32_t before = page - table()[page - 1].length;
        table()[page - 1].kind = inside;
        length += page - before;
        page = before;
        remove_free_run(before);
    }
    add_free_run(page, length);
}

void* Slab::take_slot(int index) {
    uint32_t page = with_room_[index];
    if (page == no_page) {
        page = take_run(1);
        if (page == no_page) return nullptr;
        Page& it = table()[page];
        it.shift = uint8_t(index + shift_min);
        it.free_slot = no_slot;
        it.fresh_slot = it.used_slots = 0;
        it.kind = slots;
        link(with_room_[index], page);
    }
    Page& it = table()[page];
    char* start = page_at(page);
    char* slot;
    if (it.free_slot != no_slot) {
        slot = start + (size_t(it.free_slot) << it.shift);
        std::memcpy(&it.free_slot, slot, sizeof it.free_slot);
    } else {
        slot = start + (size_t(it.fresh_slot++) << it.shift);
    }
    if (++it.used_slots == page_bytes >> it.shift) unlink(with_room_[index], page);
    used_bytes_ += size_t(1) << it.shift;
    return slot;
}

void* Slab::allocate(size_t bytes) {
    void* memory = nullptr;
    if (bytes <= slot_bytes_max) {
        memory = take_slot(class_of(bytes));
    } else if (bytes <= size_t(pages_) * page_bytes) {
        auto length = uint32_t((bytes + page_bytes - 1) / page_bytes);
        uint32_t page = take_run(length);
        if (page != no_page) {
            memory = page_at(page);
            used_bytes_ += size_t(length) * page_bytes;
        }
    }
    if (!memory) ++failures_;
    return memory;
}

// Where an allocation lies; page is no_page when it is none.
Slab::Spot Slab::find(const void* memory) const {
    auto at = reinterpret_cast<uintptr_t>(memory);
    auto start = reinterpret_cast<uintptr_t>(base());
    if (at < start || at >= start + size_t(pages_) * page_bytes) return {};
    auto page = uint32_t((at - start) / page_bytes);
    auto inner = uint32_t((at - start) % page_bytes);
    const Page& it = table()[page];
    if (it.kind == run) return inner ? Spot{} : Spot{page, 0};
    if (it.kind != slots || inner & ((1u << it.shift) - 1)) return {};
    uint32_t slot = inner >> it.shift;
    return slot < it.fresh_slot ? Spot{page, slot} : Spot{};
}

size_t Slab::size_of(const void* memory) const {
    Spot spot = find(memory);
    if (spot.page == no_page) return 0;
    const Page& it = table()[spot.page];
    return it.kind == run ? size_t(it.length) * page_bytes : size_t(1) << it.shift;
}

bool Slab::free(void* memory) {
    Spot spot = find(memory);
    if (spot.page == no_page) return false;
    Page& it = table()[spot.page];
    if (it.kind == run) {
        used_bytes_ -= size_t(it.length) * page_bytes;
        give_run(spot.page, it.length);
        return true;
    }
    if (!it.used_slots) return false;
    int index = it.shift - shift_min;
    if (it.used_slots == page_bytes >> it.shift) link(with_room_[index], spot.page);
    std::memcpy(memory, &it.free_slot, sizeof it.free_slot);
    it.free_slot = uint16_t(spot.slot);
    used_bytes_ -= size_t(1) << it.shift;
    if (--it.used_slots == 0) {
        unlink(with_room_[index], spot.page);
        give_run(spot.page, 1);
    }
    return true;
}

// One page's free list and count. Returns the first allocation behind the page.
const void* const* Slab::rebuild_slots(uint32_t page, const void* const* at,
                                       const void* const* end) {
    Page& it = table()[page];
    const char* start = page_at(page);
    uint16_t before = no_slot;
    uint16_t used = 0;
    for (uint32_t slot = 0; slot < it.fresh_slot; ++slot) {
        char* memory = page_at(page) + (size_t(slot) << it.shift);
        if (at < end && *at == memory) {
            ++used;
            ++at;
            continue;
        }
        std::memcpy(memory, &before, sizeof before);
        before = uint16_t(slot);
    }
    while (at < end && *at < start + page_bytes) ++at;
    it.free_slot = before;
    it.used_slots = used;
    used_bytes_ += size_t(used) << it.shift;
    if (used < page_bytes >> it.shift) link(with_room_[it.shift - shift_min], page);
    return at;
}

void Slab::rebuild(std::span<const void* const> live) {
    free_pages_ = 0;
    used_bytes_ = 0;
    bin_bits_ = 0;
    std::fill(std::begin(bin_), std::end(bin_), no_page);
    std::fill(std::begin(with_room_), std::end(with_room_), no_page);
    const void* const* at = live.data();
    const void* const* end = at + live.size();
    for (uint32_t page = 0; page < pages_;) {
        uint32_t used = at < end ? find(*at).page : pages_;
        if (page < used) {
            for (uint32_t i = page; i < used; ++i) table()[i].kind = inside;
            add_free_run(page, used - page);
        }
        page = used;
        if (page == pages_) break;
        Page& it = table()[page];
        if (it.kind == slots) {
            at = rebuild_slots(page, at, end);
            ++page;
            continue;
        }
        for (uint32_t i = 1; i < it.length; ++i) table()[page + i].kind = inside;
        used_bytes_ += size_t(it.length) * page_bytes;
        page += it.length;
        while (at < end && *at < page_at(page)) ++at;
    }
}

// The free list of a page must hold each slot at most once and as many as are not used.
bool Slab::check_slots(uint32_t page) const {
    const Page& it = table()[page];
    if (it.shift < shift_min || it.shift > shift_max) return false;
    uint32_t count = uint32_t(page_bytes >> it.shift);
    if (it.fresh_slot > count || it.used_slots > it.fresh_slot) return false;
    uint32_t given_back = it.fresh_slot - it.used_slots;
    uint16_t slot = it.free_slot;
    for (; given_back; --given_back) {
        if (slot >= it.fresh_slot) return false;
        std::memcpy(&slot, page_at(page) + (size_t(slot) << it.shift), sizeof slot);
    }
    return slot == no_slot;
}

bool Slab::check_lists(uint32_t idle_runs, const uint32_t (&with_room)[classes]) const {
    for (int bin = 0; bin < bins; ++bin) {
        if ((bin_[bin] != no_page) != bool(bin_bits_ >> bin & 1)) return false;
        uint32_t before = no_page;
        for (uint32_t page = bin_[bin]; page != no_page; page = table()[page].next) {
            if (page >= pages_ || table()[page].kind != idle || table()[page].prev != before ||
                bin_of(table()[page].length) != bin || idle_runs-- == 0) {
                return false;
            }
            before = page;
        }
    }
    for (int index = 0; index < classes; ++index) {
        uint32_t left = with_room[index];
        uint32_t before = no_page;
        for (uint32_t page = with_room_[index]; page != no_page; page = table()[page].next) {
            if (page >= pages_ || table()[page].kind != slots || table()[page].prev != before ||
                table()[page].shift - shift_min != index || left-- == 0) {
                return false;
            }
            before = page;
        }
        if (left) return false;
    }
    return idle_runs == 0;
}

bool Slab::check() const {
    uint32_t idle_pages = 0, idle_runs = 0, with_room[classes] = {};
    size_t used = 0;
    for (uint32_t page = 0; page < pages_;) {
        const Page& it = table()[page];
        uint32_t length = it.kind == slots ? 1 : it.length;
        if (it.kind >= inside || !length || length > pages_ - page) return false;
        if (it.kind == slots) {
            if (!check_slots(page)) return false;
            with_room[it.shift - shift_min] += it.used_slots < page_bytes >> it.shift;
            used += size_t(it.used_slots) << it.shift;
        } else if (it.kind == run) {
            used += size_t(length) * page_bytes;
        } else {
            if (table()[page + length - 1].length != length) return false;
            idle_pages += length;
            ++idle_runs;
        }
        page += length;
    }
    return idle_pages == free_pages_ && used == used_bytes_ && check_lists(idle_runs, with_room);
}

}  // namespace core
