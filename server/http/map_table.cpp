// Maps: built from a block, asked by requests, changed at run time.
#include "server/http/map_table.h"

#include "conf/binder.h"
#include "core/text.h"
#include "server/config.h"
#include "server/http/request.h"

namespace server {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

namespace {

bool is_flag(const conf::Node& entry) {
    return entry.args.empty() && (entry.name == "hostnames" || entry.name == "volatile");
}

Slice word_of(Slice key) {
    if (key.starts_with('\\')) key.remove_prefix(1);
    return key;
}

core::Result<std::shared_ptr<const core::Regex>> compile_pattern(Slice key) {
    key.remove_prefix(1);
    bool caseless = key.starts_with('*');
    if (caseless) key.remove_prefix(1);
    return core::Regex::compile(key, caseless ? uint32_t(core::Regex::caseless) : 0u);
}

}  // namespace

// ---- configuration ----

Result<void> MapTable::add_pattern(Slice pattern, size_t value) {
    auto regex = compile_pattern(pattern);
    if (!regex) return regex.take_error();
    auto captures = define_captures(**regex, Configuration::current().variables());
    if (!captures) return captures.take_error();
    patterns_.push_back({std::string(pattern), std::move(*regex), std::move(*captures), value});
    return {};
}

Result<void> MapTable::add_word(Slice word, size_t value) {
    word = word_of(word);
    switch (words_.add(core::to_lower(word), value, host_names)) {
    case HostMap<size_t>::Added::yes: return {};
    case HostMap<size_t>::Added::known:
        return Error{"conflicting parameter \"" + std::string(word) + "\""};
    default: return Error{"invalid hostname or wildcard \"" + std::string(word) + "\""};
    }
}

Result<void> MapTable::add(const Line& entry) {
    const std::string& key = entry.node.name;
    if (is_flag(entry.node)) {
        (key == "hostnames" ? host_names : is_volatile) = true;
        return {};
    }
    if (entry.count() != 1) return Error{"invalid number of the map parameters"};
    auto value = ComplexValue::compile(entry.arg(0), entry);
    if (!value) return value.take_error();
    size_t index = values_.size();
    values_.push_back(std::move(*value));
    if (key == "default") {
        if (default_ != none) return Error{"duplicate default map parameter"};
        default_ = index;
        return {};
    }
    if (key.starts_with('~')) return add_pattern(key, index);
    return add_word(key, index);
}

// ---- requests ----

size_t MapTable::choose(Request& request, Slice text) const {
    if (!words_.empty()) {
        Slice word = host_names && text.ends_with('.') ? text.substr(0, text.size() - 1) : text;
        constexpr size_t bytes_on_stack = 256;
        char room[bytes_on_stack];
        char* lower = word.size() <= bytes_on_stack ? room : request.arena.bytes(word.size());
        core::lower_into(lower, word);
        if (const size_t* index = words_.find(Slice(lower, word.size()))) return *index;
    }
    for (const Pattern& pattern : patterns_) {
        if (pattern.removed) continue;
        if (match_captures(request, *pattern.regex, text, pattern.captures)) return pattern.value;
    }
    return default_;
}

Value MapTable::evaluate(Request& request) const {
    size_t index = choose(request, subject.evaluate(request));
    if (index == none) return Slice("", 0);
    Slice text = values_[index].evaluate(request);
    if (!text.data()) return Slice("", 0);
    // A value that was set at run time may go before the request does.
    return index < configured_ ? text : request.arena.copy(text);
}

// ---- changes at run time ----

std::string MapTable::canonical(Slice key) {
    if (key == "default" || key.starts_with('~')) return std::string(key);
    std::string word = core::to_lower(word_of(key));
    bool special = word.empty() || word == "default" || word[0] == '~' || word[0] == '\\';
    return special ? "\\" + word : word;
}

core::Result<MapTable::Entry> MapTable::prepare(const std::string& key, Slice text) const {
    VariableTable& table = Configuration::current().variables();
    conf::Place nowhere;
    Entry entry{key, {}, nullptr, {}};
    if (text.find('$') != Slice::npos) {
        VariableTable scratch;
        auto probe = ComplexValue::compile(text, scratch, nowhere);
        if (!probe) return probe.take_error();
        for (const auto& part : probe->parts()) {
            if (part.kind != ComplexValue::Part::variable) continue;
            Slice used = scratch.name(part.index);
            if (table.find(used) >= 0) continue;
            return Error{"variable \"" + std::string(used) + "\" is not used in the configuration"};
        }
    }
    auto value = ComplexValue::compile(text, table, nowhere);
    if (!value) return value.take_error();
    entry.value = std::move(*value);
    if (key == "default") return entry;
    if (!key.starts_with('~')) {
        if (HostMap<size_t>::is_valid(word_of(key), host_names)) return entry;
        return Error{"invalid hostname or wildcard \"" + key + "\""};
    }
    auto regex = compile_pattern(key);
    if (!regex) return regex.take_error();
    entry.regex = std::move(*regex);
    for (const core::Regex::Name& named : entry.regex->names()) {
        int index = table.find(named.name);
        if (index < 0) {
            return Error{"variable \"" + named.name + "\" is not used in the configuration"};
        }
        entry.captures.emplace_back(named.group, index);
    }
    return entry;
}

size_t MapTable::keep(ComplexValue&& value) {
    if (free_values_.empty()) {
        values_.push_back(std::move(value));
        return values_.size() - 1;
    }
    size_t index = free_values_.back();
    free_values_.pop_back();
    values_[index] = std::move(value);
    return index;
}

void MapTable::release(size_t value) {
    if (value == none || value < configured_) return;
    values_[value] = {};
    free_values_.push_back(value);
}

MapTable::Pattern* MapTable::find_pattern(const std::string& key) {
    for (Pattern& pattern : patterns_) {
        if (pattern.key == key) return &pattern;
    }
    return nullptr;
}

void MapTable::put_pattern(Entry&& entry, size_t value) {
    if (Pattern* known = find_pattern(entry.key)) {
        release(std::exchange(known->value, value));
        known->removed = false;
        return;
    }
    patterns_.push_back({std::move(entry.key), std::move(entry.regex), std::move(entry.captures),
                         value});
}

void MapTable::set(Entry&& entry) {
    size_t value = keep(std::move(entry.value));
    if (entry.key == "default") return release(std::exchange(default_, value));
    if (entry.key.starts_with('~')) return put_pattern(std::move(entry), value);
    release(words_.set(word_of(entry.key), value, host_names).value_or(none));
}

// A pattern of the block keeps its place, should it be wanted again.
void MapTable::remove_pattern(const std::string& key) {
    Pattern* known = find_pattern(key);
    if (!known) return;
    size_t index = configured_index(key);
    release(known->value);
    if (index == none) {
        patterns_.erase(patterns_.begin() + (known - patterns_.data()));
        return;
    }
    known->value = index;
    known->removed = true;
}

void MapTable::remove(const std::string& key) {
    if (key == "default") return release(std::exchange(default_, none));
    if (key.starts_with('~')) return remove_pattern(key);
    release(words_.erase(word_of(key), host_names).value_or(none));
}

void MapTable::restore(const std::string& key) {
    remove(key);
    size_t index = configured_index(key);
    if (index == none) return;
    if (key == "default") {
        default_ = index;
    } else if (key.starts_with('~')) {
        if (Pattern* known = find_pattern(key)) known->removed = false;
    } else {
        release(words_.set(word_of(key), index, host_names).value_or(none));
    }
}

// Values have the order of the entries.
size_t MapTable::configured_index(const std::string& key) const {
    size_t index = 0;
    for (const conf::Node& entry : block->children) {
        if (is_flag(entry)) continue;
        if (canonical(entry.name) == key) return index;
        ++index;
    }
    return none;
}

const std::string* MapTable::configured(const std::string& key) const {
    for (const conf::Node& entry : block->children) {
        if (!is_flag(entry) && canonical(entry.name) == key) return &entry.args[0];
    }
    return nullptr;
}

}  // namespace server
