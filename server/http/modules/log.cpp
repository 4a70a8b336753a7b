// The log module: log_format, access_log, open_log_file_cache. Last of the log phase, so that what
// a script changes there is logged.
#include <algorithm>
#include <optional>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/log_sinks.h"
#include "core/text.h"
#include "server/config.h"
#include "server/http/core_conf.h"
#include "server/http/log_format.h"
#include "server/http/log_target.h"
#include "server/http/open_files.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace server {

namespace {

constexpr int64_t default_gzip_buffer_bytes = 64 * 1024;
constexpr core::Slice default_path = "logs/access.log";

// One access_log: exactly one of the three targets is there.
struct AccessLog {
    std::shared_ptr<LogFile> file;
    std::shared_ptr<core::Syslog> syslog;
    ComplexValue path;
    std::shared_ptr<const LogFormat> format;
    ComplexValue condition;                    // if=
};

struct Conf {
    std::vector<AccessLog> logs;
    bool off = false;
    conf::Setting<bool> escape_non_ascii{true};
    std::shared_ptr<LogFileCache> file_cache;  // open_log_file_cache
    bool file_cache_set = false;
    // Of the http level: what the whole configuration shares.
    std::vector<std::shared_ptr<LogFormat>> formats;
    std::vector<std::shared_ptr<LogFile>> files;
};

const Module& module();

// The conf of the http level, made when no directive has stood there yet.
Conf& shared() {
    Configuration& configuration = Configuration::current();
    conf::Level& http = *configuration.http_level();
    return *static_cast<Conf*>(configuration.binder().own(http, module().index));
}

// ---- log_format ----

std::shared_ptr<LogFormat> find_format(core::Slice name) {
    for (auto& format : shared().formats) {
        if (core::iequals(format->name, name)) return format;
    }
    return nullptr;
}

conf::Result<std::shared_ptr<LogFormat>> combined(const conf::Line& line) {
    if (auto known = find_format("combined")) return known;
    auto format = std::make_shared<LogFormat>();
    format->name = "combined";
    auto compiled = format->compile(
        "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent "
        "\"$http_referer\" \"$http_user_agent\"", line);
    if (!compiled) return compiled.take_error();
    shared().formats.push_back(format);
    return format;
}

conf::Result<void> add_format(Conf& conf, const conf::Line& line) {
    core::Slice name = line.arg(0);
    if (core::iequals(name, "combined") || find_format(name)) {
        return conf::Error{"duplicate \"log_format\" name \"" + std::string(name) + "\""};
    }
    auto format = std::make_shared<LogFormat>();
    format->name = name;
    size_t first = 1;
    constexpr core::Slice escape = "escape=";
    if (line.arg(1).starts_with(escape)) {
        core::Slice how = line.arg(1).substr(escape.size());
        if (how == "json") {
            format->escape = LogEscape::json;
        } else if (how == "none") {
            format->escape = LogEscape::none;
        } else if (how != "default") {
            return conf::Error{"unknown log format escaping \"" + std::string(how) + "\""};
        }
        ++first;
    }
    for (size_t i = first; i < line.count(); ++i) {
        auto compiled = format->compile(line.arg(i), line);
        if (!compiled) return compiled;
    }
    conf.formats.push_back(std::move(format));
    return {};
}

// ---- access_log ----

conf::Result<std::shared_ptr<LogFile>> open_file(core::Slice name, const LogFile::Options& options,
                                                 conf::Binder& binder) {
    std::string path = binder.full_path(name);
    for (auto& file : shared().files) {
        if (file->path() != path) continue;
        if (options.buffer_bytes == 0) return file;
        if (file->options().buffer_bytes && file->options() != options) {
            return conf::Error{"access_log \"" + std::string(name) +
                               "\" already defined with conflicting parameters"};
        }
        file->set_options(options);
        return file;
    }
    core::LogSinkError error;
    auto sink = core::open_log_sink(path, binder.prefix, error);
    if (!sink) {
        std::string why = error.what;
        if (error.system_error) {
            why += core::format(" (%d: %s)", error.system_error,
                                core::error_name(error.system_error));
        }
        return conf::Error{why};
    }
    auto file = std::make_shared<LogFile>(path, std::move(sink), options);
    shared().files.push_back(file);
    return file;
}

// The parameters behind the format's name.
conf::Result<void> parse_options(const conf::Line& line, LogFile::Options& options,
                                 ComplexValue& condition) {
    for (size_t i = 2; i < line.count(); ++i) {
        core::Slice parameter = line.arg(i);
        core::Slice value = parameter.substr(std::min(parameter.find('=') + 1, parameter.size()));
        if (parameter.starts_with("buffer=")) {
            auto bytes = conf::parse_size(value);
            if (!bytes || *bytes <= 0) {
                return conf::Error{"invalid buffer size \"" + std::string(value) + "\""};
            }
            options.buffer_bytes = *bytes;
        } else if (parameter.starts_with("flush=")) {
            auto ms = conf::parse_time_ms(value);
            if (!ms || *ms <= 0) {
                return conf::Error{"invalid flush time \"" + std::string(value) + "\""};
            }
            options.flush_ms = *ms;
        } else if (parameter == "gzip" || parameter.starts_with("gzip=")) {
            if (!options.buffer_bytes) options.buffer_bytes = default_gzip_buffer_bytes;
            auto level = parameter == "gzip" ? std::optional<uint64_t>(1)
                                             : core::parse_number(value, 9);
            if (!level || *level < 1) {
                return conf::Error{"invalid compression level \"" + std::string(value) + "\""};
            }
            options.gzip_level = int(*level);
        } else if (parameter.starts_with("if=")) {
            auto compiled = ComplexValue::compile(value, line);
            if (!compiled) return compiled.take_error();
            condition = std::move(*compiled);
        } else {
            return conf::invalid_parameter(parameter);
        }
    }
    if (options.flush_ms && !options.buffer_bytes) {
        return conf::Error{"no buffer is defined for access_log \"" + std::string(line.arg(0)) +
                           "\""};
    }
    return {};
}

conf::Result<void> set_target(AccessLog& log, const conf::Line& line,
                              const LogFile::Options& options) {
    core::Slice target = line.arg(0);
    constexpr core::Slice syslog = "syslog:";
    if (target.starts_with(syslog)) {
        if (options.buffer_bytes) return conf::Error{"logs to syslog cannot be buffered"};
        auto server = core::Syslog::open(target.substr(syslog.size()));
        if (!server) return server.take_error();
        log.syslog = std::move(*server);
        return {};
    }
    if (target.find('$') != core::Slice::npos) {
        if (options.buffer_bytes) {
            return conf::Error{"buffered logs cannot have variables in name"};
        }
        auto path = ComplexValue::compile(line.binder.full_path(target), line);
        if (!path) return path.take_error();
        log.path = std::move(*path);
        return {};
    }
    auto file = open_file(target, options, line.binder);
    if (!file) return file.take_error();
    log.file = std::move(*file);
    return {};
}

conf::Result<void> add_access_log(Conf& conf, const conf::Line& line) {
    if (line.arg(0) == "off") {
        conf.off = true;
        if (line.count() > 1) return conf::invalid_parameter(line.arg(1));
        return {};
    }
    AccessLog log;
    core::Slice name = line.count() > 1 ? line.arg(1) : core::Slice("combined");
    if (core::iequals(name, "combined")) {
        auto format = combined(line);
        if (!format) return format.take_error();
        log.format = *format;
    } else {
        log.format = find_format(name);
    }
    if (!log.format) return conf::Error{"unknown log format \"" + std::string(name) + "\""};
    LogFile::Options options;
    auto parsed = parse_options(line, options, log.condition);
    if (!parsed) return parsed;
    auto set = set_target(log, line, options);
    if (!set) return set;
    conf.logs.push_back(std::move(log));
    return {};
}

conf::Result<void> set_file_cache(Conf& conf, const conf::Line& line) {
    if (conf.file_cache_set) return conf::detail::duplicate();
    conf.file_cache_set = true;
    LogFileCache::Options options;
    bool off = false;
    for (size_t i = 0; i < line.count(); ++i) {
        core::Slice parameter = line.arg(i);
        core::Slice value = parameter.substr(std::min(parameter.find('=') + 1, parameter.size()));
        std::optional<int64_t> number;
        if (parameter == "off") {
            off = true;
            continue;
        }
        if (parameter.starts_with("max=")) {
            number = core::parse_number(value, 1 << 20);
            if (number) options.max = int(*number);
        } else if (parameter.starts_with("inactive=")) {
            number = conf::parse_time_s(value);
            if (number) options.inactive_ms = *number * 1000;
        } else if (parameter.starts_with("min_uses=")) {
            number = core::parse_number(value, INT32_MAX);
            if (number) options.min_uses = *number;
        } else if (parameter.starts_with("valid=")) {
            number = conf::parse_time_s(value);
            if (number) options.valid_ms = *number * 1000;
        }
        if (!number) {
            return conf::Error{"invalid \"open_log_file_cache\" parameter \"" +
                               std::string(parameter) + "\""};
        }
    }
    if (off) return {};
    if (options.max == 0) {
        return conf::Error{"\"open_log_file_cache\" must have \"max\" parameter"};
    }
    conf.file_cache = std::make_shared<LogFileCache>(options);
    return {};
}

conf::Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    if (!conf.file_cache_set) {
        conf.file_cache_set = outer->file_cache_set;
        conf.file_cache = outer->file_cache;
    }
    if (conf.off) {
        conf.logs.clear();
    } else if (conf.logs.empty()) {
        conf.logs = outer->logs;
        conf.off = outer->off;
    }
    return {};
}

// Without any access_log at the http level there is one: logs/access.log.
conf::Result<void> add_default_log(conf::Binder& binder) {
    if (!Configuration::current().http_level()) return {};
    Conf& http = shared();
    if (!http.logs.empty() || http.off) return {};
    static const std::string file;
    conf::Node node;
    node.name = "access_log";
    node.args = {std::string(default_path)};
    node.quoted = {false};
    node.place = {&file, 0};
    return add_access_log(http, conf::Line{node, binder, conf::in_http});
}

// The outermost level comes first: what it adds to the http level is inherited by the others.
conf::Result<void> merge_level(Conf& conf, const Conf* outer, conf::Binder& binder) {
    return outer ? merge(conf, outer, binder) : add_default_log(binder);
}

// ---- requests ----

bool is_wanted(Request& request, const AccessLog& log) {
    if (log.condition.empty()) return true;
    core::Slice value = log.condition.evaluate(request);
    return !value.empty() && value != "0";
}

LineBuffer& scratch_line() {
    static thread_local LineBuffer line;
    line.clear();
    return line;
}

// A file whose name comes from the request is written only where the document root exists, so that
// no names are made up for hosts that are not there.
void write_named(Request& request, const Conf& conf, const AccessLog& log) {
    core::Slice root = file_path(request, "/");
    if (!root.data()) return;
    OpenedFile folder = server::open_file(request, root, FileUse::test);
    if (!folder.is_directory) {
        LOG(request.log, error, folder.error, "testing \"%.*s\" existence failed",
            int(root.size()), root.data());
        return;
    }
    LineBuffer& line = scratch_line();
    log.format->append_line(request, line, !conf.escape_non_ascii.value);
    core::Slice path = request.arena.copy_z(log.path.evaluate(request));
    static LogFileCache uncached{LogFileCache::Options{}};
    (conf.file_cache ? *conf.file_cache : uncached).write(path, line.text(), request.log);
}

Verdict write_logs(Request& request) {
    const Conf& conf = request.conf<Conf>(module());
    bool plain_non_ascii = !conf.escape_non_ascii.value;
    for (const AccessLog& log : conf.logs) {
        if (!is_wanted(request, log)) continue;
        if (log.file) {
            log.format->append_line(request, log.file->line(), plain_non_ascii);
            log.file->line_done();
        } else if (log.syslog) {
            LineBuffer& line = scratch_line();
            log.format->append_line(request, line, plain_non_ascii);
            log.syslog->send(line.text().substr(0, line.size() - 1));
        } else {
            write_named(request, conf, log);
        }
    }
    return Verdict::decline();
}

void flush_all() {
    Configuration& configuration = Configuration::current();
    if (!configuration.http_level()) return;
    for (auto& file : shared().files) file->flush();
}

constexpr uint32_t log_contexts = conf::in_any_http | conf::in_location_if | conf::in_limit_except;
constexpr conf::Directive directives[] = {
    {"log_format", conf::in_http, conf::takes_at_least(2), conf::call<add_format>},
    {"access_log", log_contexts, conf::takes_at_least(1), conf::call<add_access_log>},
    {"open_log_file_cache", conf::in_any_http, conf::takes(1, 4), conf::call<set_file_cache>},
    {"log_escape_non_ascii", conf::in_any_http, conf::takes_flag(),
     conf::field<&Conf::escape_non_ascii>},
};

constexpr PhaseHandler handlers[] = {
    {Phase::log, rank::last, write_logs,
     [](const void* conf) { return !static_cast<const Conf*>(conf)->logs.empty(); }},
};

constinit const Module access_logs{
    .name = "log",
    .conf = conf_with_merge<Conf, merge_level>,
    .directives = directives,
    .handlers = handlers,
    .init_worker = [](Worker&) -> conf::Result<void> {
        core::before_log_reopen(flush_all);
        return {};
    },
    .exit_worker = [](Worker&) { flush_all(); },
};
const Module& module() { return access_logs; }
REGISTER_MODULE(access_logs);

}  // namespace

}  // namespace server
