// Reads error_log lines: destination and level.
#include "server/error_log.h"

#include "conf/binder.h"
#include "core/text.h"

namespace server {

namespace {

// nginx's debug_http and its like narrow the debug log down to one subsystem: all of it is shown.
std::optional<core::Level> level_of(core::Slice name) {
    if (name.starts_with("debug_")) return core::Level::debug;
    return core::parse_level(name);
}

}  // namespace

conf::Result<void> add_error_log(const conf::Line& line, core::Log& log) {
    core::Level level = core::Level::error;
    for (size_t i = 1; i < line.count(); ++i) {
        auto parsed = level_of(line.arg(i));
        if (!parsed) {
            return conf::Error{"invalid log level \"" + std::string(line.arg(i)) + "\""};
        }
        level = *parsed;
    }
    core::LogSinkError error;
    auto sink = core::open_log_sink(line.arg(0), line.binder.prefix, error);
    if (!sink) {
        if (!error.system_error) return conf::Error{error.what};
        return conf::Error{core::format("%s (%d: %s)", error.what.c_str(), error.system_error,
                                        core::error_name(error.system_error))};
    }
    log.add(std::move(sink), level);
    return {};
}

}  // namespace server
