// handlers: folders of handlers that are added and removed at run time through the control socket.
//
//   /v1/handlers                         what is served
//   /v1/handlers/PREFIX                  PUT {"folder":PATH}  DELETE
//
// PREFIX is all of the rest of the path: /v1/handlers/api/v2 is about "/api/v2/".
#include <simdjson.h>

#include "core/json_writer.h"
#include "core/log.h"
#include "lua/handlers.h"
#include "server/config.h"
#include "server/control/json.h"
#include "server/control/resource.h"
#include "server/control/state.h"
#include "server/module.h"

namespace lua {

namespace {

using server::ControlItem;
using server::ControlOutcome;
using server::ControlPlace;
using server::ControlState;
using server::StagedPtr;
using Path = std::vector<std::string>;

// "/api/v2/"
std::string prefix_of(const Path& path) {
    std::string prefix;
    for (const std::string& segment : path) {
        if (!prefix.ends_with('/')) prefix += '/';
        prefix += segment.starts_with('/') ? segment.substr(1) : segment;
    }
    if (!prefix.ends_with('/')) prefix += '/';
    return prefix;
}

server::ControlError nothing_added(const Path& path) {
    return server::not_found("no folder was added for \"" + prefix_of(path) + "\"");
}

struct Staged : server::StagedChange {
    std::function<void()> change;
    void commit() override { change(); }
};

class Handlers final : public server::ControlResource {
  public:
    Handlers() : ControlResource("handlers") {}

    ControlOutcome show(const Path& path, const ControlState& state,
                        core::JsonWriter& to) const override;
    ControlOutcome plan(const server::ControlCall& call,
                        server::ControlDraft& draft) const override;
    core::Result<StagedPtr> stage(const ControlItem& item, const ControlPlace& place) override;
    void started(const ControlPlace& place, const ControlState& state) override;
    std::string object_of(const Path& path) const override {
        return server::encode_segment(prefix_of(path));
    }
};

Handlers handlers;

void write_folder(core::JsonWriter& to, core::Slice prefix, core::Slice folder,
                  const char* source) {
    to.begin_object().member("prefix", prefix).member("folder", folder);
    to.member("from", source).end_object();
}

// {"folder":"/srv/api"}
core::Result<std::string> folder_of(const std::string& json) {
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    std::string folder;
    if (parser.parse(json).get(root)) return core::Error{"an object is expected"};
    auto read = server::read_json(root, {{"folder", &folder}});
    if (!read) return read.take_error();
    if (folder.empty()) return core::Error{"\"folder\" is missing"};
    return folder;
}

ControlOutcome Handlers::show(const Path& path, const ControlState& state,
                              core::JsonWriter& to) const {
    const ControlState::Items* items = state.of(name());
    if (!path.empty()) {
        const std::string* value = state.find(name(), object_of(path));
        auto folder = value ? folder_of(*value) : core::Error{""};
        if (!folder) return nothing_added(path);
        write_folder(to, prefix_of(path), *folder, "run time");
        return {};
    }
    to.begin_object().key("handlers").begin_array();
    for_each_handler_folder([&](const HandlerFolderInfo& info) {
        if (info.configured) write_folder(to, info.prefix, info.folder, "configuration");
    });
    if (items) {
        for (const auto& [key, value] : *items) {
            auto prefix = server::decode_segment(key);
            auto folder = folder_of(value);
            if (prefix && folder) write_folder(to, *prefix, *folder, "run time");
        }
    }
    to.end_array().end_object();
    return {};
}

ControlOutcome Handlers::plan(const server::ControlCall& call, server::ControlDraft& draft) const {
    if (call.path.empty()) return server::wrong_method();
    std::string key = object_of(call.path);
    if (call.method == "DELETE") {
        if (!draft.find(key)) {
            return nothing_added(call.path);
        }
        draft.set(key, std::nullopt);
        return {};
    }
    if (call.method != "PUT") return server::wrong_method();
    auto folder = folder_of(call.body);
    if (!folder) return server::invalid(folder.error().what);
    draft.set(key, call.body);
    return {};
}

core::Result<StagedPtr> Handlers::stage(const ControlItem& item, const ControlPlace&) {
    auto prefix = server::decode_segment(item.key);
    if (!prefix) return core::Error{"no valid prefix"};
    std::string folder;
    if (item.value) {
        auto named = folder_of(*item.value);
        if (!named) return named.take_error();
        folder = std::move(*named);
    }
    auto change = stage_handlers(*prefix, folder);
    if (!change) return change.take_error();
    auto staged = std::make_unique<Staged>();
    staged->change = std::move(*change);
    return StagedPtr(std::move(staged));
}

// Each worker watches the folders itself, from when its modules are up.
void Handlers::started(const ControlPlace& place, const ControlState& state) {
    const ControlState::Items* items = state.of(name());
    if (!items || (place.kind == ControlPlace::worker && place.number < 0)) return;
    for (const auto& [key, value] : *items) {
        auto staged = stage({name(), key, value}, place);
        if (staged) {
            (*staged)->commit();
        } else {
            LOG(core::process_log(), error, 0, "handlers %s: %s", key.c_str(),
                staged.error().what.c_str());
        }
    }
}

// Its name comes before that of lua_handlers, which looks whether folders may be added.
const server::Module control_handlers{
    .name = "control_handlers",
    .prepare = [](server::Configuration& configuration) -> conf::Result<void> {
        if (server::has_control(configuration) && configuration.http_level()) want_handlers();
        return {};
    },
};
REGISTER_MODULE(control_handlers);

}  // namespace

}  // namespace lua
