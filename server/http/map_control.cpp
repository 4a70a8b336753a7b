// maps: the entries of map{} blocks, changed at run time through the control socket.
//
//   /v1/maps, /v1/maps/NAME              what is known; NAME is the variable's, with $ or without
//   /v1/maps/NAME                        PATCH {"key":"value","other":null}; DELETE: as configured
//   /v1/maps/NAME/KEY                    GET  PUT {"value":…}  DELETE
//
// A value is a text, or null for an entry of the block that was removed.
#include <simdjson.h>

#include "core/json_writer.h"
#include "server/config.h"
#include "server/control/json.h"
#include "server/control/resource.h"
#include "server/control/state.h"
#include "server/http/map_table.h"

namespace server {

namespace {

namespace dom = simdjson::dom;
using Path = std::vector<std::string>;

MapTable* find_map(core::Slice name) {
    if (name.starts_with('$')) name.remove_prefix(1);
    const auto* maps = maps_of(Configuration::current());
    if (!maps) return nullptr;
    for (const auto& map : *maps) {
        if (map->name == name) return map.get();
    }
    return nullptr;
}

ControlError no_map(const std::string& name) {
    return not_found("there is no map for \"" + name + "\"");
}

std::string key_of(const MapTable& map, const std::string& entry) {
    return encode_segment(map.name) + "/" + encode_segment(entry);
}

std::string quoted(core::Slice text) {
    std::string to;
    core::append_json_string(to, text);
    return to;
}

struct StagedEntry : StagedChange {
    enum Kind : uint8_t { set, remove, restore } kind = set;
    MapTable* map;
    MapTable::Entry entry;
    void commit() override {
        switch (kind) {
        case set: return map->set(std::move(entry));
        case remove: return map->remove(entry.key);
        case restore: return map->restore(entry.key);
        }
    }
};

class Maps final : public ControlResource {
  public:
    Maps() : ControlResource("maps") {}

    ControlOutcome show(const Path& path, const ControlState& state,
                        core::JsonWriter& to) const override;
    ControlOutcome plan(const ControlCall& call, ControlDraft& draft) const override;
    core::Result<StagedPtr> stage(const ControlItem& item, const ControlPlace& place) override;

    std::string object_of(const Path& path) const override {
        const MapTable* map = find_map(path[0]);
        return encode_segment(map ? map->name : path[0]);
    }

  private:
    ControlOutcome show_map(const MapTable& map, const ControlState& state,
                            core::JsonWriter& to) const;
    ControlOutcome show_entry(const MapTable& map, const std::string& entry,
                              const ControlState& state, core::JsonWriter& to) const;
    ControlOutcome plan_all(const ControlCall& call, const MapTable& map,
                            ControlDraft& draft) const;
    ControlOutcome set(const MapTable& map, core::Slice written, dom::element value,
                       ControlDraft& draft) const;
    ControlOutcome remove(const MapTable& map, const std::string& entry,
                          ControlDraft& draft) const;
};

Maps maps;

void write_entry(core::JsonWriter& to, core::Slice key, core::Slice value, const char* source) {
    to.begin_object().member("key", key).member("value", value).member("from", source);
    to.end_object();
}

// The text of a value, which is JSON; nothing: the entry was removed.
std::optional<std::string> text_of(const std::string& json) {
    dom::parser parser;
    std::string_view text;
    if (parser.parse(json).get(text)) return {};
    return std::string(text);
}

ControlOutcome Maps::show_map(const MapTable& map, const ControlState& state,
                              core::JsonWriter& to) const {
    std::string prefix = encode_segment(map.name) + "/";
    const ControlState::Items* items = state.of(name());
    to.begin_object().member("name", map.name).member("subject", map.subject.source());
    to.key("entries").begin_array();
    for (const conf::Node& entry : map.block->children) {
        if (entry.args.empty()) continue;
        std::string key = MapTable::canonical(entry.name);
        if (items && items->contains(prefix + encode_segment(key))) continue;
        write_entry(to, key, entry.args[0], "configuration");
    }
    if (items) {
        for (auto at = items->lower_bound(prefix); at != items->end(); ++at) {
            if (!at->first.starts_with(prefix)) break;
            auto key = decode_segment(core::Slice(at->first).substr(prefix.size()));
            auto value = text_of(at->second);
            if (key && value) write_entry(to, *key, *value, "run time");
        }
    }
    to.end_array().end_object();
    return {};
}

ControlOutcome Maps::show_entry(const MapTable& map, const std::string& entry,
                                const ControlState& state, core::JsonWriter& to) const {
    if (const std::string* set = state.find(name(), key_of(map, entry))) {
        auto value = text_of(*set);
        if (!value) return not_found("the entry was removed");
        write_entry(to, entry, *value, "run time");
        return {};
    }
    const std::string* configured = map.configured(entry);
    if (!configured) return not_found("there is no such entry");
    write_entry(to, entry, *configured, "configuration");
    return {};
}

ControlOutcome Maps::show(const Path& path, const ControlState& state,
                          core::JsonWriter& to) const {
    if (path.empty()) {
        to.begin_object().key("maps").begin_array();
        if (const auto* all = maps_of(Configuration::current())) {
            for (const auto& map : *all) {
                to.begin_object().member("name", map->name);
                to.member("subject", map->subject.source());
                to.member("configured", map->configured_count()).end_object();
            }
        }
        to.end_array().end_object();
        return {};
    }
    MapTable* map = find_map(path[0]);
    if (!map) return no_map(path[0]);
    if (path.size() > 2) return not_found("there is nothing at this path");
    if (path.size() == 1) return show_map(*map, state, to);
    return show_entry(*map, MapTable::canonical(path[1]), state, to);
}

ControlOutcome Maps::set(const MapTable& map, core::Slice written, dom::element value,
                         ControlDraft& draft) const {
    std::string entry = MapTable::canonical(written);
    if (value.is_null()) return remove(map, entry, draft);
    std::string_view text;
    if (value.get(text)) return invalid("a value must be a text");
    auto ready = map.prepare(entry, text);
    if (!ready) return invalid(ready.error().what);
    // ".a.test" and "*.a.test" have one place in the table: whichever goes takes the other along.
    std::string twin = map.host_names ? HostMap<size_t>::twin(entry) : std::string();
    if (!twin.empty()) {
        const std::string* set = draft.find(key_of(map, twin));
        if (set ? *set != "null" : map.configured(twin) != nullptr) {
            return conflict("\"" + twin + "\" has a value, which is for the same names");
        }
    }
    draft.set(key_of(map, entry), quoted(text));
    return {};
}

ControlOutcome Maps::remove(const MapTable& map, const std::string& entry,
                            ControlDraft& draft) const {
    std::string key = key_of(map, entry);
    const std::string* set = draft.find(key);
    bool configured = map.configured(entry);
    if (set ? *set == "null" : !configured) {
        return not_found("there is no entry \"" + entry + "\"");
    }
    if (configured) draft.set(key, "null");
    else draft.set(key, std::nullopt);
    return {};
}

ControlOutcome Maps::plan_all(const ControlCall& call, const MapTable& map,
                              ControlDraft& draft) const {
    if (call.method == "DELETE") {
        Path keys;
        draft.each(encode_segment(map.name) + "/",
                   [&](const std::string& key, const std::string&) { keys.push_back(key); });
        for (const std::string& key : keys) draft.set(key, std::nullopt);
        return {};
    }
    if (call.method != "PATCH") return wrong_method();
    dom::parser parser;
    dom::element body;
    dom::object entries;
    if (parser.parse(call.body).get(body) || body.get(entries)) {
        return invalid("an object of keys and values is expected");
    }
    for (auto [key, value] : entries) {
        if (auto wrong = set(map, key, value, draft)) return wrong;
    }
    return {};
}

ControlOutcome Maps::plan(const ControlCall& call, ControlDraft& draft) const {
    const Path& path = call.path;
    if (path.empty()) return wrong_method();
    MapTable* map = find_map(path[0]);
    if (!map) return no_map(path[0]);
    if (path.size() > 2) return not_found("there is nothing at this path");
    if (path.size() == 1) return plan_all(call, *map, draft);
    if (call.method == "DELETE") return remove(*map, MapTable::canonical(path[1]), draft);
    if (call.method != "PUT") return wrong_method();
    dom::parser parser;
    dom::element body, value;
    if (parser.parse(call.body).get(body) || body["value"].get(value)) {
        return invalid("\"value\" is missing");
    }
    return set(*map, path[1], value, draft);
}

core::Result<StagedPtr> Maps::stage(const ControlItem& item, const ControlPlace&) {
    auto path = split_path(item.key);
    MapTable* map = path && path->size() == 2 ? find_map((*path)[0]) : nullptr;
    if (!map) return core::Error{"there is no such map"};
    auto staged = std::make_unique<StagedEntry>();
    staged->map = map;
    staged->entry.key = (*path)[1];
    if (!item.value) {
        staged->kind = StagedEntry::restore;
        return StagedPtr(std::move(staged));
    }
    auto text = text_of(*item.value);
    if (!text) {
        staged->kind = StagedEntry::remove;
        return StagedPtr(std::move(staged));
    }
    auto entry = map->prepare((*path)[1], *text);
    if (!entry) return entry.take_error();
    staged->entry = std::move(*entry);
    return StagedPtr(std::move(staged));
}

}  // namespace

}  // namespace server
