// Directives of the core module whose arguments need more than one field: root and alias, types,
// error_page, rates, caches. Each checks what nginx checks, in its words.
#include "server/http/core_directives.h"

#include "core/resolver.h"
#include "core/text.h"
#include "server/error_log.h"
#include "server/http/core_conf.h"
#include "server/http/request.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

bool after(Slice text, Slice prefix, Slice& rest) {
    if (!text.starts_with(prefix)) return false;
    rest = text.substr(prefix.size());
    return true;
}

// What an alias stands for in the URI, by the location it is given in.
size_t replaced_by_alias(const Location* location) {
    return location && location->kind == Location::regex ? Slice::npos
           : location                                    ? location->name.size()
                                                         : 0;
}

}  // namespace

Result<void> set_root(CoreConf& conf, const Line& line) {
    bool alias = line.name() == "alias";
    if (conf.root_set) {
        if (conf.is_alias == alias) return Error{"is duplicate"};
        return Error{quoted(line.name()) + " directive is duplicate, " +
                     quoted(conf.is_alias ? "alias" : "root") +
                     " directive was specified earlier"};
    }
    const Location* location = Configuration::current().binding_location;
    if (alias && location && location->kind == Location::named) {
        return Error{"the \"alias\" directive cannot be used inside the named location"};
    }
    std::string path(line.arg(0));
    for (Slice variable : {"document_root", "realpath_root"}) {
        if (path.find("$" + std::string(variable)) == std::string::npos &&
            path.find("${" + std::string(variable) + "}") == std::string::npos) {
            continue;
        }
        return Error{"the $" + std::string(variable) + " variable cannot be used in the " +
                     quoted(line.name()) + " directive"};
    }
    // A path that begins with a variable is known, and completed, at run time.
    if (path.empty() || (path[0] != '/' && path[0] != '$')) path = line.binder.full_path(path);
    if (!alias && path.ends_with('/')) path.pop_back();
    auto value = ComplexValue::compile(path, line);
    if (!value) return value.take_error();
    conf.root = std::move(*value);
    conf.root_set = true;
    conf.is_alias = alias;
    conf.alias_replaces = alias ? replaced_by_alias(location) : 0;
    if (location) conf.location_name = location->name;
    return {};
}

Result<void> set_internal(CoreConf& conf, const Line&) {
    if (conf.internal.is_set) return Error{"is duplicate"};
    conf.internal.set(true);
    return {};
}

Result<void> set_types(CoreConf& conf, const Line& line) {
    if (!conf.types) conf.types = std::make_shared<MimeTypes>();
    auto& types = conf.types->by_extension;
    return line.binder.each_entry(line, [&](const Line& entry) -> Result<void> {
        const std::string& type = entry.node.name;
        if (type == "include") {               // with one name it would have been expanded
            return Error{"invalid number of arguments in \"include\" directive"};
        }
        for (const std::string& written : entry.node.args) {
            auto [at, added] = types.try_emplace(core::to_lower(written), type);
            if (added) continue;
            line.binder.warn(entry.node.place,
                             "duplicate extension " + quoted(written) + ", content type: " +
                                 quoted(type) + ", previous content type: " + quoted(at->second));
            at->second = type;
        }
        return {};
    });
}

Result<void> set_rate(CoreConf& conf, const Line& line) {
    auto& setting = line.name() == "limit_rate" ? conf.limit_rate : conf.limit_rate_after;
    if (setting.is_set) return Error{"is duplicate"};
    auto parsed = parse_setting(setting.value, line);
    if (!parsed) return parsed;
    if (setting->is_constant() && !conf::parse_size(line.arg(0))) {
        return conf::directive_error(line, "invalid value");
    }
    setting.is_set = true;
    return {};
}

Result<void> set_aio(CoreConf& conf, const Line& line) {
    if (conf.aio.is_set) return Error{"is duplicate"};
    Slice rest, text = line.arg(0);
    if (text == "off") {
        conf.aio.set(AioMode::off);
    } else if (text == "on") {
        conf.aio.set(AioMode::on);
    } else if (text == "threads" || after(text, "threads=", rest)) {
        conf.aio.set(AioMode::threads);
        conf.aio_pool = rest.empty() ? "default" : std::string(rest);
    } else {
        return conf::directive_error(line, "invalid value");
    }
    return {};
}

Result<void> set_directio(CoreConf& conf, const Line& line) {
    if (conf.directio.is_set) return Error{"is duplicate"};
    if (line.arg(0) == "off") {
        conf.directio.set(conf::Offset{INT64_MAX});
        return {};
    }
    auto size = conf::parse_offset(line.arg(0));
    if (!size) return conf::directive_error(line, "invalid value");
    conf.directio.set(conf::Offset{*size});
    return {};
}

Result<void> set_directio_alignment(CoreConf& conf, const Line& line) {
    constexpr int64_t most = 1 << 20;
    if (conf.directio_alignment.is_set) return Error{"is duplicate"};
    auto parsed = parse_setting(conf.directio_alignment.value, line);
    if (!parsed) return parsed;
    int64_t bytes = conf.directio_alignment->count;
    if (bytes < 1 || bytes > most) return conf::directive_error(line, "invalid value");
    conf.directio_alignment.is_set = true;
    return {};
}

// Only some kernels let a socket say from how much room on it is writable; Linux does not.
Result<void> set_send_lowat(CoreConf& conf, const Line& line) {
    if (conf.send_lowat.is_set) return Error{"is duplicate"};
    auto parsed = parse_setting(conf.send_lowat.value, line);
    if (!parsed) return parsed;
    conf.send_lowat.is_set = true;
    line.binder.warn(line.node.place, "\"send_lowat\" is not supported, ignored");
    return {};
}

Result<void> set_pool_size(CoreConf& conf, const Line& line) {
    auto& setting = line.name() == "request_pool_size" ? conf.request_pool_size
                                                       : conf.connection_pool_size;
    if (setting.is_set) return Error{"is duplicate"};
    auto parsed = parse_setting(setting.value, line);
    if (!parsed) return parsed;
    constexpr int64_t least = 112, unit = 16;       // nginx's bounds on this machine
    if (setting->count < least) {
        return Error{"the pool size must be no less than " + std::to_string(least)};
    }
    if (setting->count % unit) {
        return Error{"the pool size must be a multiple of " + std::to_string(unit)};
    }
    setting.is_set = true;
    return {};
}

Result<void> set_keepalive_timeout(CoreConf& conf, const Line& line) {
    if (conf.keepalive_timeout.is_set) return Error{"is duplicate"};
    auto timeout = conf::parse_time_ms(line.arg(0));
    if (!timeout) return conf::directive_error(line, "invalid value");
    conf.keepalive_timeout.set(conf::Milliseconds{*timeout});
    if (line.count() == 1) return {};
    auto header = conf::parse_time_s(line.arg(1));
    if (!header) return conf::directive_error(line, "invalid value");
    conf.keepalive_header_s = *header;
    return {};
}

namespace {

// Statuses of connections gone wrong before a request was read are shown as 400.
int default_overwrite(int status) {
    return status >= 494 && status <= 497 ? 400 : -1;
}

Result<void> read_error_page_target(ErrorPage& page, const Line& line) {
    Slice target = line.arg(line.count() - 1);
    auto value = ComplexValue::compile(target, line);
    if (!value) return value.take_error();
    page.value = std::move(*value);
    size_t question = target.find('?');
    if (page.value.is_constant() && target.starts_with('/') && question != Slice::npos) {
        page.value = ComplexValue(target.substr(0, question));
        page.args = ComplexValue(target.substr(question + 1));
    }
    return {};
}

}  // namespace

Result<void> set_error_page(CoreConf& conf, const Line& line) {
    if (!conf.error_pages) conf.error_pages = std::make_shared<std::vector<ErrorPage>>();
    size_t statuses = line.count() - 1;
    ErrorPage page{};
    Slice before_last = line.arg(line.count() - 2);
    if (before_last.starts_with('=')) {
        --statuses;
        auto code = core::parse_number(before_last.substr(1), 999);
        if (statuses == 0 || (before_last.size() > 1 && !code)) {
            return conf::invalid_value(before_last);
        }
        page.overwrite = code ? int(*code) : 0;
    }
    auto target = read_error_page_target(page, line);
    if (!target) return target;
    for (size_t i = 0; i < statuses; ++i) {
        auto status = core::parse_number(line.arg(i), 99999);
        if (!status || *status == 499) return conf::invalid_value(line.arg(i));
        if (*status < 300 || *status > 599) {
            return Error{"value " + quoted(line.arg(i)) + " must be between 300 and 599"};
        }
        ErrorPage one = page;
        one.status = int(*status);
        if (one.overwrite == -1) one.overwrite = default_overwrite(one.status);
        conf.error_pages->push_back(std::move(one));
    }
    return {};
}

Result<void> set_early_hints(CoreConf& conf, const Line& line) {
    if (conf.early_hints.is_set) return Error{"is duplicate"};
    std::vector<ComplexValue> values;
    for (const std::string& text : line.node.args) {
        auto value = ComplexValue::compile(text, line);
        if (!value) return value.take_error();
        values.push_back(std::move(*value));
    }
    conf.early_hints.set(std::move(values));
    return {};
}

Result<void> set_open_file_cache(CoreConf& conf, const Line& line) {
    if (conf.open_file_cache_set) return Error{"is duplicate"};
    conf.open_file_cache_set = true;
    bool off = false;
    for (const std::string& argument : line.node.args) {
        Slice rest;
        if (after(argument, "max=", rest)) {
            auto count = core::parse_number(rest, INT32_MAX);
            if (count && *count > 0) {
                conf.open_file_cache_max = int(*count);
                continue;
            }
        } else if (after(argument, "inactive=", rest)) {
            if (auto seconds = conf::parse_time_s(rest)) {
                conf.open_file_cache_inactive.set(conf::Seconds{*seconds});
                continue;
            }
        } else if (argument == "off") {
            off = true;
            continue;
        }
        return Error{"invalid \"open_file_cache\" parameter " + quoted(argument)};
    }
    if (off) {
        conf.open_file_cache_max = 0;
    } else if (conf.open_file_cache_max == 0) {
        return Error{"\"open_file_cache\" must have the \"max\" parameter"};
    }
    return {};
}

Result<void> set_resolver(CoreConf& conf, const Line& line) {
    if (conf.resolver) return Error{"is duplicate"};
    core::Resolver::Options options;
    for (const std::string& argument : line.node.args) {
        Slice rest;
        Error invalid{"invalid parameter: " + argument};
        if (after(argument, "valid=", rest)) {
            auto seconds = conf::parse_time_s(rest);
            if (!seconds) return invalid;
            options.valid_ms = *seconds * 1000;
        } else if (after(argument, "ipv4=", rest) || after(argument, "ipv6=", rest)) {
            if (rest != "on" && rest != "off") return invalid;
            (argument[3] == '4' ? options.ipv4 : options.ipv6) = rest == "on";
        } else if (after(argument, "status_zone=", rest)) {
            if (rest.empty()) return invalid;
            options.status_zone = rest;
        } else {
            options.servers.push_back(argument);
        }
    }
    if (!options.ipv4 && !options.ipv6) {
        return Error{"\"ipv4\" and \"ipv6\" cannot both be \"off\""};
    }
    if (options.servers.empty()) return Error{"no name servers defined"};
    auto resolver = core::Resolver::create(std::move(options));
    if (!resolver) return resolver.take_error();
    conf.resolver = std::move(*resolver);
    return {};
}

Result<void> set_error_log(CoreConf& conf, const Line& line) {
    if (!conf.error_log) conf.error_log = std::make_shared<core::Log>();
    return add_error_log(line, *conf.error_log);
}

Result<void> set_disable_symlinks(CoreConf& conf, const Line& line) {
    if (conf.disable_symlinks.is_set) return Error{"is duplicate"};
    bool from = false;
    for (const std::string& argument : line.node.args) {
        Slice rest;
        if (argument == "off") {
            conf.disable_symlinks.set(DisableSymlinks::off);
        } else if (argument == "on") {
            conf.disable_symlinks.set(DisableSymlinks::on);
        } else if (argument == "if_not_owner") {
            conf.disable_symlinks.set(DisableSymlinks::if_not_owner);
        } else if (after(argument, "from=", rest)) {
            auto value = ComplexValue::compile(rest, line);
            if (!value) return value.take_error();
            conf.disable_symlinks_from = std::move(*value);
            from = true;
        } else {
            return conf::invalid_parameter(argument);
        }
    }
    if (!conf.disable_symlinks.is_set) {
        return Error{"\"disable_symlinks\" must have \"off\", \"on\" or \"if_not_owner\" "
                     "parameter"};
    }
    if (line.count() == 2 && !from) {
        return Error{"duplicate parameters \"" + std::string(line.arg(0)) + " " +
                     std::string(line.arg(1)) + "\""};
    }
    if (from && *conf.disable_symlinks == DisableSymlinks::off) {
        return Error{"\"from=\" cannot be used with \"off\" parameter"};
    }
    return {};
}

}  // namespace server
