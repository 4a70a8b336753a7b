// log-level: how much is written to the error logs, of all processes or of one.
//
//   /v1/log-level            {"level":"debug"}
//   /v1/log-level/master, /v1/log-level/worker-N     of that process; they win over the former
#include <simdjson.h>

#include "core/json_writer.h"
#include "core/log.h"
#include "core/text.h"
#include "server/config.h"
#include "server/control/resource.h"
#include "server/control/state.h"
#include "server/http/core_conf.h"
#include "server/stream/blocks.h"

namespace server {

namespace {

constexpr const char* for_all = "all";

// {"level":"info"}
core::Result<core::Level> parse_value(const std::string& json) {
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    std::string_view name;
    if (parser.parse(json).get(root) || root["level"].get(name)) {
        return core::Error{"\"level\" is missing"};
    }
    auto level = core::parse_level(name);
    if (!level) return core::Error{"invalid log level \"" + std::string(name) + "\""};
    return *level;
}

std::string key_of(const ControlPlace& place) {
    if (place.kind == ControlPlace::master) return "master";
    return "worker-" + std::to_string(place.kind == ControlPlace::single ? 0 : place.number);
}

bool is_process(const std::string& key) {
    if (key == "master" || key == for_all) return true;
    constexpr core::Slice worker = "worker-";
    return key.starts_with(worker) &&
           core::parse_number(core::Slice(key).substr(worker.size()), 1023);
}

class LogLevels final : public ControlResource {
  public:
    LogLevels() : ControlResource("log-level") {}

    ControlOutcome show(const std::vector<std::string>& path, const ControlState& state,
                        core::JsonWriter& to) const override;
    ControlOutcome plan(const ControlCall& call, ControlDraft& draft) const override;
    core::Result<StagedPtr> stage(const ControlItem& item, const ControlPlace& place) override;
    void configured(Configuration& configuration) override;
    void begin(const ControlPlace& place, const ControlState& state) override;

    void set(const std::string& key, std::optional<core::Level> level, const std::string& own);

  private:
    struct Known {
        core::Log* log;
        std::vector<core::Level> levels;   // of its outputs, as configured
    };
    void add(core::Log* log);
    void apply(const std::string& own);

    std::vector<Known> logs_;
    std::map<std::string, core::Level> levels_;
};

LogLevels log_levels;

struct StagedLevel : StagedChange {
    std::string key, own;
    std::optional<core::Level> level;
    void commit() override { log_levels.set(key, level, own); }
};

void LogLevels::add(core::Log* log) {
    if (!log) return;
    for (const Known& known : logs_) {
        if (known.log == log) return;
    }
    Known known{log, {}};
    for (const auto& output : log->outputs) known.levels.push_back(output.level);
    logs_.push_back(std::move(known));
}

void LogLevels::configured(Configuration& configuration) {
    logs_.clear();
    levels_.clear();
    add(&configuration.error_log);
    for (conf::Level* level : configuration.levels) {
        auto* conf = static_cast<CoreConf*>(level->get(http_core.index));
        if (conf) add(conf->error_log.get());
    }
    if (!configuration.stream) return;
    for (const auto& server : configuration.stream->servers) {
        if (server->conf) add(server->conf->error_log.get());
    }
}

void LogLevels::set(const std::string& key, std::optional<core::Level> level,
                    const std::string& own) {
    if (level) levels_[key] = *level;
    else levels_.erase(key);
    apply(own);
}

void LogLevels::apply(const std::string& own) {
    auto at = levels_.find(own);
    if (at == levels_.end()) at = levels_.find(for_all);
    for (Known& known : logs_) {
        core::Level most = core::Level::stderr_;
        for (size_t i = 0; i < known.levels.size(); ++i) {
            core::Level level = at == levels_.end() ? known.levels[i] : at->second;
            known.log->outputs[i].level = level;
            most = std::max(most, level);
        }
        known.log->level = most;
    }
}

void LogLevels::begin(const ControlPlace& place, const ControlState&) {
    if (!levels_.empty()) apply(key_of(place));
}

ControlOutcome LogLevels::show(const std::vector<std::string>& path, const ControlState&,
                               core::JsonWriter& to) const {
    if (!path.empty()) return not_found("GET /v1/log-level shows all of them");
    to.begin_object().key("set").begin_object();
    for (const auto& [key, level] : levels_) to.member(key, core::level_name(level));
    to.end_object().key("configured").begin_array();
    for (const Known& known : logs_) {
        for (core::Level level : known.levels) to.value(core::level_name(level));
    }
    to.end_array().end_object();
    return {};
}

ControlOutcome LogLevels::plan(const ControlCall& call, ControlDraft& draft) const {
    if (call.path.size() > 1) return not_found("there is nothing at this path");
    std::string key = call.path.empty() ? for_all : call.path[0];
    if (!is_process(key)) return not_found("processes are all, master and worker-0, worker-1, …");
    if (call.method == "DELETE") {
        if (!draft.find(key)) return not_found("no level was set for " + key);
        draft.set(key, std::nullopt);
        return {};
    }
    if (call.method != "PUT") return wrong_method();
    auto level = parse_value(call.body);
    if (!level) return invalid(level.error().what);
    core::JsonWriter json;
    json.begin_object().member("level", core::level_name(*level)).end_object();
    draft.set(key, json.take());
    return {};
}

core::Result<StagedPtr> LogLevels::stage(const ControlItem& item, const ControlPlace& place) {
    auto staged = std::make_unique<StagedLevel>();
    staged->key = item.key;
    staged->own = key_of(place);
    if (item.value) {
        auto level = parse_value(*item.value);
        if (!level) return level.take_error();
        staged->level = *level;
    }
    return StagedPtr(std::move(staged));
}

}  // namespace

}  // namespace server
