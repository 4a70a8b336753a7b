// A hash table and a list by last use, in a zone's memory. Called by limit_req and limit_conn.
#include "server/http/keyed_zone.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/clock.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/metrics.h"

namespace server {

namespace {

// A bucket for so many bytes of the zone: about as many as it will have entries.
constexpr int64_t bytes_per_bucket = 256;
constexpr int64_t pages_least = 8;

}  // namespace

struct KeyedZone::Root {
    uint64_t generation;
    size_t buckets;                // a power of two
    KeyedEntry* newest;
    KeyedEntry* oldest;
    char* key;                     // the source of the key, NUL-terminated
    KeyedEntry** table() { return reinterpret_cast<KeyedEntry**>(this + 1); }
    KeyedEntry*& bucket(uint32_t hash) { return table()[hash & (buckets - 1)]; }
};

KeyedZone::Root* KeyedZone::make_root(core::ShmZone& zone, core::Slice key, uint64_t generation) {
    size_t buckets = std::bit_floor(zone.bytes() / size_t(bytes_per_bucket));
    size_t size = sizeof(Root) + buckets * sizeof(KeyedEntry*);
    auto* root = static_cast<Root*>(zone.allocate_locked(size));
    auto* text = static_cast<char*>(zone.allocate_locked(key.size() + 1));
    if (!root || !text) return nullptr;
    std::memset(static_cast<void*>(root), 0, size);
    root->generation = generation;
    root->buckets = buckets;
    root->key = text;
    std::memcpy(text, key.data(), key.size());
    text[key.size()] = '\0';
    zone.set_root(root);
    return root;
}

KeyedZone::Root& KeyedZone::root() const { return *zone_->root<Root>(); }

core::Result<void> KeyedZone::open(const void* tag, const char* module) {
    auto zone = core::ShmZone::find_or_create(name, size_t(bytes), tag);
    if (!zone) return zone.take_error();
    zone_ = std::move(*zone);
    core::ShmLock lock(*zone_);
    if (auto* known = zone_->root<Root>()) {
        if (key.source() == known->key) return {};
        return core::Error{std::string(module) + " \"" + name + "\" uses the \"" +
                           std::string(key.source()) + "\" key while previously it used the \"" +
                           known->key + "\" key"};
    }
    // Counts that may be half changed are worth less than the zone's being of use.
    zone_->on_owner_death([source = std::string(key.source())](core::ShmZone& broken) {
        broken.wipe();
        make_root(broken, source, uint64_t(core::Clock::monotonic_ms()));
    });
    if (!make_root(*zone_, key.source(), 0)) {
        return core::Error{"zone \"" + name + "\" is too small"};
    }
    return {};
}

core::Slice KeyedZone::key_of(Request& request, size_t bytes_max) const {
    core::Slice value = key.evaluate(request);
    if (value.size() <= bytes_max) return value;
    core::Slice source = key.source();
    LOG(request.log, error, 0, "the value of the \"%.*s\" key is more than %zu bytes: \"%.*s\"",
        int(source.size()), source.data(), bytes_max, int(value.size()), value.data());
    return {};
}

uint64_t KeyedZone::generation() { return root().generation; }

void KeyedZone::unlink(Root& root, KeyedEntry& entry) {
    (entry.newer ? entry.newer->older : root.newest) = entry.older;
    (entry.older ? entry.older->newer : root.oldest) = entry.newer;
}

void KeyedZone::link_newest(Root& root, KeyedEntry& entry) {
    entry.newer = nullptr;
    entry.older = root.newest;
    (root.newest ? root.newest->newer : root.oldest) = &entry;
    root.newest = &entry;
}

void KeyedZone::count(const MetricTable& table, size_t value) {
    if (!metrics_on) return;
    if (!counters_) counters_ = own_row(table, {name});
    if (counters_) core::add(counters_[value]);
}

KeyedEntry* KeyedZone::find(core::Slice wanted, uint32_t hash) {
    Root& all = root();
    for (KeyedEntry* at = all.bucket(hash); at; at = at->next) {
        if (at->hash != hash || at->key() != wanted) continue;
        unlink(all, *at);
        link_newest(all, *at);
        return at;
    }
    return nullptr;
}

KeyedEntry* KeyedZone::add(core::Slice wanted, uint32_t hash) {
    void* room = zone_->allocate_locked(sizeof(KeyedEntry) + wanted.size());
    if (!room) return nullptr;
    Root& all = root();
    auto* entry = ::new (room) KeyedEntry{};
    entry->hash = hash;
    entry->key_bytes = uint32_t(wanted.size());
    std::memcpy(static_cast<void*>(entry + 1), wanted.data(), wanted.size());
    KeyedEntry*& bucket = all.bucket(hash);
    entry->next = bucket;
    bucket = entry;
    link_newest(all, *entry);
    return entry;
}

void KeyedZone::remove(KeyedEntry& entry) {
    Root& all = root();
    KeyedEntry** at = &all.bucket(entry.hash);
    while (*at != &entry) at = &(*at)->next;
    *at = entry.next;
    unlink(all, entry);
    zone_->free_locked(&entry);
}

KeyedEntry* KeyedZone::oldest() { return root().oldest; }

// ---- configuration ----

std::shared_ptr<KeyedZone> KeyedZones::named(core::Slice name) {
    for (auto& zone : zones_) {
        if (zone->name == name) return zone;
    }
    zones_.push_back(std::make_shared<KeyedZone>());
    zones_.back()->name = name;
    return zones_.back();
}

namespace {

// "NAME:SIZE"
conf::Result<int64_t> zone_size(core::Slice parameter, core::Slice written, core::Slice& name) {
    size_t colon = written.find(':');
    auto size = colon == core::Slice::npos ? std::nullopt
                                           : conf::parse_size(written.substr(colon + 1));
    if (!size) return conf::Error{"invalid zone size \"" + std::string(parameter) + "\""};
    if (*size < pages_least * int64_t(core::Slab::page_bytes)) {
        return conf::Error{"zone \"" + std::string(parameter) + "\" is too small"};
    }
    name = written.substr(0, colon);
    return *size;
}

// "10r/s", "30r/m": thousandths a second.
conf::Result<int64_t> rate_of(core::Slice parameter, core::Slice written) {
    int64_t scale = written.ends_with("r/m") ? 60 : 1;
    if (scale == 60 || written.ends_with("r/s")) written.remove_suffix(3);
    constexpr uint64_t most = 1'000'000'000;
    auto rate = core::parse_number(written, most);
    if (!rate || *rate == 0) {
        return conf::Error{"invalid rate \"" + std::string(parameter) + "\""};
    }
    return int64_t(*rate) * 1000 / scale;
}

}  // namespace

conf::Result<void> KeyedZones::define(const conf::Line& line, bool with_rate) {
    auto key = ComplexValue::compile(line.arg(0), line);
    if (!key) return key.take_error();
    core::Slice name;
    int64_t bytes = 0, rate = 1000;
    for (size_t i = 1; i < line.count(); ++i) {
        core::Slice parameter = line.arg(i);
        if (parameter.starts_with("zone=")) {
            auto size = zone_size(parameter, parameter.substr(5), name);
            if (!size) return size.take_error();
            bytes = *size;
        } else if (with_rate && parameter.starts_with("rate=")) {
            auto given = rate_of(parameter, parameter.substr(5));
            if (!given) return given.take_error();
            rate = *given;
        } else {
            return conf::invalid_parameter(parameter);
        }
    }
    std::string directive(line.name());
    if (name.empty()) return conf::Error{"\"" + directive + "\" must have \"zone\" parameter"};
    KeyedZone& zone = *named(name);
    if (zone.bytes) {
        return conf::Error{directive + " \"" + zone.name + "\" is already bound to key \"" +
                           std::string(zone.key.source()) + "\""};
    }
    zone.bytes = bytes;
    zone.rate = rate;
    zone.key = std::move(*key);
    return {};
}

core::Result<void> KeyedZones::open(const void* tag, const char* module) {
    for (auto& zone : zones_) {
        if (!zone->bytes) {
            return core::Error{"zero size shared memory zone \"" + zone->name + "\""};
        }
        auto opened = zone->open(tag, module);
        if (!opened) return opened;
    }
    return {};
}

conf::Result<void> parse_setting(LimitLevel& to, const conf::Line& line) {
    using core::Level;
    for (Level level : {Level::info, Level::notice, Level::warn, Level::error}) {
        if (!conf::is_word(line.arg(0), std::string(core::level_name(level)).c_str())) continue;
        to.level = level;
        return {};
    }
    return conf::invalid_value(line.arg(0));
}

}  // namespace server
