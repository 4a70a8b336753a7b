// The blocks that make servers and locations: server, server_name, location, limit_except. They
// create the objects that routing works with and a configuration level for each.
#include <unistd.h>

#include <algorithm>

#include "core/regex.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/core_directives.h"
#include "server/http/request.h"
#include "server/http/router.h"
#include "server/http/script.h"

namespace server {

namespace {

using core::Slice;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

conf::Result<std::shared_ptr<const core::Regex>> compile_pattern(Slice pattern, bool caseless) {
    return core::Regex::compile(pattern, caseless ? uint32_t(core::Regex::caseless) : 0u);
}

conf::Result<void> make_regex(Location& location, Slice pattern, bool caseless) {
    auto regex = compile_pattern(pattern, caseless);
    if (!regex) return regex.take_error();
    location.kind = Location::regex;
    location.name = pattern;
    location.pattern = std::move(*regex);
    auto captures = define_captures(*location.pattern, Configuration::current().variables());
    if (!captures) return captures.take_error();
    location.captures = std::move(*captures);
    return {};
}

// The forms `location = /x`, `location =/x`, `location ~* \.x$`, `location @x`, …
conf::Result<void> read_name(Location& location, const conf::Line& line) {
    bool apart = line.count() == 2;
    Slice modifier = apart ? line.arg(0) : Slice{};
    Slice name = line.arg(line.count() - 1);
    if (!apart) {
        for (Slice known : {"=", "^~", "~*", "~"}) {
            if (!name.starts_with(known)) continue;
            modifier = known;
            name.remove_prefix(known.size());
            break;
        }
    }
    location.name = name;
    if (modifier == "~" || modifier == "~*") return make_regex(location, name, modifier == "~*");
    if (modifier == "=") {
        location.kind = Location::exact;
    } else if (modifier == "^~") {
        location.kind = Location::prefix_no_regex;
    } else if (modifier.empty()) {
        location.kind = name.starts_with('@') ? Location::named : Location::prefix;
    } else {
        return core::Error{"invalid location modifier " + quoted(modifier)};
    }
    return {};
}

conf::Result<void> check_nesting(const Location& location, const Location& outer) {
    std::string name = quoted(location.name), outer_name = quoted(outer.name);
    if (outer.kind == Location::exact) {
        return core::Error{"location " + name + " cannot be inside the exact location " +
                           outer_name};
    }
    if (outer.kind == Location::named) {
        return core::Error{"location " + name + " cannot be inside the named location " +
                           outer_name};
    }
    if (location.kind == Location::named) {
        return core::Error{"named location " + name + " can be on the server level only"};
    }
    if (location.kind != Location::regex && !location.name.starts_with(outer.name)) {
        return core::Error{"location " + name + " is outside location " + outer_name};
    }
    return {};
}

bool same_place_in_tree(const Location& a, const Location& b) {
    auto is_prefix = [](const Location& it) {
        return it.kind == Location::prefix || it.kind == Location::prefix_no_regex;
    };
    bool same_kind = (is_prefix(a) && is_prefix(b)) ||
                     (a.kind == Location::exact && b.kind == Location::exact);
    return same_kind && a.name == b.name;
}

conf::Result<void> check_duplicate(const Location& location,
                                   const std::vector<std::unique_ptr<Location>>& others) {
    for (const auto& other : others) {
        if (same_place_in_tree(location, *other)) {
            return core::Error{"duplicate location " + quoted(location.name)};
        }
    }
    return {};
}

// An if or limit_except block answers as the location around it does, unless it says otherwise.
// (Called when all of the location is known: the handler may be named behind the block.)
void inherit_content_handlers(Location& location) {
    for (auto& inner : location.nested) {
        if (inner->kind != Location::if_block && inner->kind != Location::limit_except) continue;
        if (!inner->content_handler) inner->content_handler = location.content_handler;
        inherit_content_handlers(*inner);
    }
}

}  // namespace

conf::Result<void> bind_location(Location& location, const conf::Line& line, uint32_t context) {
    Configuration& configuration = Configuration::current();
    conf::Binder& binder = line.binder;
    location.server = configuration.binding_server;
    location.place = line.node.place;
    location.level = std::make_unique<conf::Level>(binder.module_count(), &binder.current(),
                                                   context);
    configuration.levels.push_back(location.level.get());
    configuration.locations.push_back(&location);
    // Settings that are not inherited (try_files, scripts) need confs of the location's own.
    binder.own(*location.level, http_core.index);
    own_script(binder, *location.level);
    Location* outer = std::exchange(configuration.binding_location, &location);
    auto bound = binder.bind_block(line, *location.level);
    configuration.binding_location = outer;
    return bound;
}

conf::Result<void> add_server(CoreConf&, const conf::Line& line) {
    Configuration& configuration = Configuration::current();
    configuration.servers.push_back(std::make_unique<VirtualServer>());
    VirtualServer& server = *configuration.servers.back();
    server.place = line.node.place;
    server.root.kind = Location::server_root;
    server.root.server = &server;
    server.root.place = line.node.place;
    server.root.level = std::make_unique<conf::Level>(line.binder.module_count(),
                                                      &line.binder.current(), conf::in_server);
    configuration.levels.push_back(server.root.level.get());
    line.binder.own(*server.root.level, http_core.index);
    own_script(line.binder, *server.root.level);
    configuration.binding_server = &server;
    configuration.binding_location = nullptr;
    auto bound = line.binder.bind_block(line, *server.root.level);
    configuration.binding_server = nullptr;
    if (!bound) return bound;
    inherit_content_handlers(server.root);
    if (server.names.empty()) server.names.emplace_back();
    for (const auto& listen : configuration.listens) {
        if (std::find(listen->servers.begin(), listen->servers.end(), &server) !=
            listen->servers.end()) {
            return {};
        }
    }
    return add_default_listen(server, line);
}

namespace {

std::string own_host_name() {
    char name[256] = "";
    gethostname(name, sizeof(name) - 1);
    return core::to_lower(name);
}

conf::Result<ServerName> read_server_name(const conf::Line& line, const std::string& text) {
    ServerName name;
    bool wild = text.starts_with('*'), dotted = text.starts_with('.');
    if ((wild && (text.size() < 3 || text[1] != '.')) || (dotted && text.size() < 2)) {
        return core::Error{"server name " + quoted(text) + " is invalid"};
    }
    if (text.find('/') != std::string::npos) {
        line.binder.warn(line.node.place,
                         "server name " + quoted(text) + " has suspicious symbols");
    }
    if (!text.starts_with('~')) {
        name.text = core::iequals(text, "$hostname") ? own_host_name() : core::to_lower(text);
        return name;
    }
    if (text.size() == 1) return core::Error{"empty regex in server name " + quoted(text)};
    name.text = text;
    // Hosts are in lower case: a pattern with capitals can only mean any case.
    bool caseless = std::any_of(text.begin(), text.end(),
                                [](char c) { return c >= 'A' && c <= 'Z'; });
    auto regex = compile_pattern(Slice(text).substr(1), caseless);
    if (!regex) return regex.take_error();
    name.pattern = std::move(*regex);
    auto captures = define_captures(*name.pattern, Configuration::current().variables());
    if (!captures) return captures.take_error();
    name.captures = std::move(*captures);
    return name;
}

}  // namespace

conf::Result<void> set_server_name(CoreConf&, const conf::Line& line) {
    for (const std::string& text : line.node.args) {
        auto name = read_server_name(line, text);
        if (!name) return name.take_error();
        Configuration::current().binding_server->names.push_back(std::move(*name));
    }
    return {};
}

conf::Result<void> add_location(CoreConf&, const conf::Line& line) {
    Configuration& configuration = Configuration::current();
    auto made = std::make_unique<Location>();
    Location& location = *made;
    auto named = read_name(location, line);
    if (!named) return named;
    VirtualServer& server = *configuration.binding_server;
    Location* outer = configuration.binding_location;
    if (outer) {
        auto nested = check_nesting(location, *outer);
        if (!nested) return nested;
    }
    auto& siblings = location.kind == Location::named ? server.named
                     : outer                          ? outer->nested
                                                      : server.root.nested;
    auto unique = check_duplicate(location, siblings);
    if (!unique) return unique;
    location.outer = outer;
    siblings.push_back(std::move(made));
    auto bound = bind_location(location, line, conf::in_location);
    if (bound) inherit_content_handlers(location);
    return bound;
}

conf::Result<void> add_limit_except(CoreConf&, const conf::Line& line) {
    Location& outer = *Configuration::current().binding_location;
    if (outer.except_block) return core::Error{"is duplicate"};
    for (const std::string& name : line.node.args) {
        Method method = Method::unknown;
        for (int i = int(Method::get); i <= int(Method::patch); ++i) {
            if (core::iequals(name, method_name(Method(i)))) method = Method(i);
        }
        if (method == Method::unknown) return core::Error{"invalid method " + quoted(name)};
        outer.except_allows |= 1u << int(method);
        // HEAD is what GET answers without its body.
        if (method == Method::get) outer.except_allows |= 1u << int(Method::head);
    }
    auto made = std::make_unique<Location>();
    Location& block = *made;
    block.kind = Location::limit_except;
    block.name = outer.name;
    block.outer = &outer;
    outer.except_block = &block;
    outer.nested.push_back(std::move(made));
    return bind_location(block, line, conf::in_limit_except);
}

}  // namespace server
