// map: a variable whose value is chosen by another text: exact words, host names with wildcards,
// regular expressions (with captures), a default. Evaluated when the variable is read.
#include <memory>

#include "core/regex.h"
#include "core/text.h"
#include "server/http/host_map.h"
#include "server/http/lookup_block.h"
#include "server/http/request.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

struct Map {
    struct Pattern {
        std::shared_ptr<const core::Regex> regex;
        std::vector<std::pair<int, int>> captures;
        size_t value;
    };

    ComplexValue subject;
    HostMap<size_t> words;             // lower case, to an index into values
    std::vector<Pattern> patterns;     // in order
    std::vector<ComplexValue> values;
    size_t default_value = SIZE_MAX;
    bool host_names = false;
    bool is_volatile = false;
};

struct MapConf {
    std::vector<std::unique_ptr<Map>> maps;
    conf::Setting<int64_t> hash_max_size{2048};      // our tables size themselves
    conf::Setting<int64_t> hash_bucket_size{64};
};

size_t choose(Request& request, const Map& map, Slice text) {
    if (!map.words.empty()) {
        Slice word = map.host_names && text.ends_with('.') ? text.substr(0, text.size() - 1) : text;
        constexpr size_t bytes_on_stack = 256;
        char room[bytes_on_stack];
        char* lower = word.size() <= bytes_on_stack ? room : request.arena.bytes(word.size());
        core::lower_into(lower, word);
        if (const size_t* index = map.words.find(Slice(lower, word.size()))) return *index;
    }
    for (const Map::Pattern& pattern : map.patterns) {
        if (match_captures(request, *pattern.regex, text, pattern.captures)) return pattern.value;
    }
    return map.default_value;
}

Value get_mapped(Request& request, Slice, uintptr_t data) {
    const Map& map = *reinterpret_cast<const Map*>(data);
    size_t index = choose(request, map, map.subject.evaluate(request));
    if (index == SIZE_MAX) return Slice("", 0);
    Slice text = map.values[index].evaluate(request);
    return text.data() ? text : Slice("", 0);
}

Result<void> add_pattern(Map& map, Slice pattern, size_t value) {
    pattern.remove_prefix(1);
    bool caseless = pattern.starts_with('*');
    if (caseless) pattern.remove_prefix(1);
    auto regex = core::Regex::compile(pattern, caseless ? uint32_t(core::Regex::caseless) : 0u);
    if (!regex) return regex.take_error();
    auto captures = define_captures(**regex, Configuration::current().variables());
    if (!captures) return captures.take_error();
    map.patterns.push_back({std::move(*regex), std::move(*captures), value});
    return {};
}

Result<void> add_word(Map& map, Slice word, size_t value) {
    if (word.starts_with('\\')) word.remove_prefix(1);
    switch (map.words.add(core::to_lower(word), value, map.host_names)) {
    case HostMap<size_t>::Added::yes: return {};
    case HostMap<size_t>::Added::known:
        return Error{"conflicting parameter \"" + std::string(word) + "\""};
    default: return Error{"invalid hostname or wildcard \"" + std::string(word) + "\""};
    }
}

Result<void> add_entry(Map& map, const Line& entry) {
    const std::string& key = entry.node.name;
    if (entry.count() == 0 && key == "hostnames") {
        map.host_names = true;
        return {};
    }
    if (entry.count() == 0 && key == "volatile") {
        map.is_volatile = true;
        return {};
    }
    if (entry.count() != 1) return Error{"invalid number of the map parameters"};
    auto value = ComplexValue::compile(entry.arg(0), entry);
    if (!value) return value.take_error();
    size_t index = map.values.size();
    map.values.push_back(std::move(*value));
    if (key == "default") {
        if (map.default_value != SIZE_MAX) return Error{"duplicate default map parameter"};
        map.default_value = index;
        return {};
    }
    if (key.starts_with('~')) return add_pattern(map, key, index);
    return add_word(map, key, index);
}

Result<void> add_map(MapConf& conf, const Line& line) {
    auto map = std::make_unique<Map>();
    auto name = read_lookup(line, map->subject,
                            [&](const Line& entry) { return add_entry(*map, entry); });
    if (!name) return name.take_error();
    auto defined = define_lookup(*name, get_mapped, map.get(),
                                 map->is_volatile ? Variable::volatile_ : 0);
    if (!defined) return defined;
    conf.maps.push_back(std::move(map));
    return {};
}

constexpr conf::Directive directives[] = {
    {"map", conf::in_http, conf::takes_block(2, 2), conf::call<add_map>},
    {"map_hash_max_size", conf::in_http, conf::takes(1), conf::field<&MapConf::hash_max_size>},
    {"map_hash_bucket_size", conf::in_http, conf::takes(1),
     conf::field<&MapConf::hash_bucket_size>},
};

const Module module_map{
    .name = "http_map",
    .conf = conf_of<MapConf>,
    .directives = directives,
};
REGISTER_MODULE(module_map);

}  // namespace

}  // namespace server
