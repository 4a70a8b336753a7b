// lua_handlers: the directive, the folders of this worker, and what others may know of them. A
// folder with its prefix is a location with handlers as its content, made from the directive; the
// index is handler_tree.cpp, requests are handler_run.cpp.
#include "lua/handlers.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "conf/binder.h"
#include "core/clock.h"
#include "core/folder_watcher.h"
#include "core/log.h"
#include "core/result.h"
#include "core/text.h"
#include "lua/api.h"
#include "lua/by_lua.h"
#include "lua/conf.h"
#include "lua/handler_load.h"
#include "lua/handler_run.h"
#include "lua/sources.h"
#include "lua/vm.h"
#include "server/config.h"
#include "server/worker.h"

namespace lua {

extern const server::Module lua_handlers_main;     // request state: Taken

namespace {

using conf::Line;
using conf::Result;
using server::Request;
using server::Verdict;

struct Conf {
    std::shared_ptr<HandlerTree> tree;         // of a location; not inherited by nested ones
};

struct MainConf {
    std::vector<std::shared_ptr<HandlerTree>> trees;     // of the configuration
    bool takes_more = false;                             // at run time
};

// The folders of this worker.
struct Folders {
    std::vector<std::shared_ptr<HandlerTree>> all;
    size_t added = 0;                          // of them, at run time
    bool ever_added = false;
    std::map<const server::VirtualServer*, std::vector<server::Step>> steps;
    const server::Configuration* wanted_by = nullptr;    // while it is loaded
};

// A request that a folder added at run time has taken from its location.
struct Taken {
    std::shared_ptr<HandlerTree> tree;
};

Folders& folders() {
    static Folders* const instance = new Folders;
    return *instance;
}

// ---- the directive ----

// "/api" and "/api/" are both "/api/".
std::string with_slash(core::Slice prefix) {
    std::string text(prefix);
    if (!text.ends_with('/')) text += '/';
    return text;
}

MainConf& configured(const Line& line);

// Lua is wanted, with code that follows its files.
void want_lua(const Line& line) {
    conf::Binder& binder = line.binder;
    auto& configuration = *static_cast<server::Configuration*>(binder.subject);
    auto& main = *static_cast<LuaMainConf*>(
        binder.own(*configuration.http_level(), lua_main_module.index));
    main.follows_files = true;
}

// One for all locations and servers that have the folder at this prefix.
std::shared_ptr<HandlerTree> configured_tree(const Line& line, std::string prefix) {
    auto& trees = configured(line).trees;
    std::string folder = line.binder.full_path(line.arg(0));
    for (const auto& tree : trees) {
        if (tree->prefix() == prefix && tree->folder() == folder) return tree;
    }
    return trees.emplace_back(
        std::make_shared<HandlerTree>(std::move(prefix), std::move(folder), true));
}

// In a location: its content.
Result<void> in_location(Conf& conf, const Line& line) {
    if (conf.tree) return conf::detail::duplicate();
    if (line.arg(0).empty()) return conf::invalid_value(line, line.arg(0));
    const server::Location& location = *server::Configuration::current().binding_location;
    if (location.kind == server::Location::regex || location.kind == server::Location::named)
        return conf::Error{"\"lua_handlers\" cannot be used in a regular expression or named "
                           "location"};
    conf.tree = configured_tree(line, with_slash(location.name));
    want_lua(line);
    // They always are as lua_code_cache auto has it, in the worker's own machine.
    auto& lua = *static_cast<LuaConf*>(
        line.binder.own(line.binder.current(), lua_module.index));
    lua.code_cache.set(CodeCache::automatic);
    return server::set_content_handler(line, run_handler_content);
}

conf::Node location_node(const Line& line, std::vector<std::string> name, core::Slice folder) {
    conf::Node inner;
    inner.name = "lua_handlers";
    inner.args = {std::string(folder)};
    inner.quoted = {false};
    inner.place = line.node.place;
    conf::Node node;
    node.name = "location";
    node.args = std::move(name);
    node.quoted.assign(node.args.size(), false);
    node.place = line.node.place;
    node.has_block = true;
    node.children.push_back(std::move(inner));
    return node;
}

// The directive as locations: `location /api/ { lua_handlers DIR; }` and, for the path without the
// last slash, `location = /api { … }`.
Result<std::vector<conf::Node>> as_locations(const Line& line) {
    core::Slice prefix = line.arg(0), folder = line.arg(1);
    if (!prefix.starts_with('/'))
        return conf::Error{"invalid prefix \"" + std::string(prefix) + "\": it begins with \"/\""};
    if (folder.empty()) return conf::invalid_value(line, folder);
    std::string full = with_slash(prefix);
    std::vector<conf::Node> nodes;
    nodes.push_back(location_node(line, {full}, folder));
    if (full.size() > 1)
        nodes.push_back(location_node(line, {"=", full.substr(0, full.size() - 1)}, folder));
    return nodes;
}

Result<void> in_server(Conf&, const Line& line) {
    auto nodes = as_locations(line);
    if (!nodes) return nodes.take_error();
    return line.binder.bind(*nodes, line.binder.current(), line.binder.tree());
}

// Does a server say itself what answers there?
bool has_own(const conf::Node& server, const std::string& prefix) {
    return std::any_of(server.children.begin(), server.children.end(), [&](const conf::Node& node) {
        if (node.args.empty()) return false;
        if (node.name == "lua_handlers") return with_slash(node.args[0]) == prefix;
        return node.name == "location" && node.args.back() == prefix && node.args.size() == 1;
    });
}

bool has_own(const server::VirtualServer& server, const std::string& prefix) {
    const auto& locations = server.root.nested;
    return std::any_of(locations.begin(), locations.end(), [&](const auto& location) {
        bool is_prefix = location->kind == server::Location::prefix ||
                         location->kind == server::Location::prefix_no_regex;
        return is_prefix && location->name == prefix;
    });
}

// For every server: those that were read get the locations now, those that follow get the directive
// as if it stood in them.
Result<void> in_http(Conf&, const Line& line) {
    auto nodes = as_locations(line);
    if (!nodes) return nodes.take_error();
    std::string prefix = with_slash(line.arg(0));
    auto& configuration = server::Configuration::current();
    for (auto& server : configuration.servers) {
        if (has_own(*server, prefix)) continue;
        configuration.binding_server = server.get();
        auto bound = line.binder.bind(*nodes, *server->root.level, line.binder.tree());
        configuration.binding_server = nullptr;
        if (!bound) return bound;
    }
    for (conf::Node& http : line.binder.tree().nodes) {
        if (http.name != "http") continue;
        for (conf::Node& node : http.children) {
            if (node.name != "server" || &node < &line.node || has_own(node, prefix)) continue;
            node.children.push_back(line.node);
        }
    }
    return {};
}

constexpr conf::Directive directives[] = {
    {"lua_handlers", conf::in_location, conf::takes(1), conf::call<in_location>},
    {"lua_handlers", conf::in_server, conf::takes(2), conf::call<in_server>},
    {"lua_handlers", conf::in_http, conf::takes(2), conf::call<in_http>},
};

// ---- folders added at run time ----

bool may_be_added(const void*) {
    auto& configuration = server::Configuration::current();
    return configuration.http_level() &&
           configuration.http<MainConf>(lua_handlers_main).takes_more;
}

bool has_own_handlers(const void* conf) { return static_cast<const Conf*>(conf)->tree != nullptr; }
bool may_have_handlers(const void* conf) { return has_own_handlers(conf) || may_be_added(conf); }

Taken* taken(const Request& request) { return request.state<Taken>(lua_handlers_main); }

std::shared_ptr<HandlerTree> find_added(core::Slice uri) {
    std::shared_ptr<HandlerTree> found;
    for (auto& tree : folders().all) {
        core::Slice prefix = tree->prefix();
        bool below = uri.starts_with(prefix) || uri == prefix.substr(0, prefix.size() - 1);
        if (!tree->configured() && below && (!found || found->prefix().size() < prefix.size()))
            found = tree;
    }
    return found;
}

// satisfy any: what the last one refused for.
Verdict after_access(Request& request) {
    int status = std::exchange(request.access_status, uint16_t(0));
    return status ? Verdict::reject(status) : Verdict::decline();
}

// The way of a request below an added folder: the server's own steps, the guards behind its access
// rules, and the handler.
const server::Step* steps_of_added(const server::VirtualServer& server) {
    auto& steps = folders().steps[&server];
    if (!steps.empty()) return steps.data();
    auto own = server.root.steps.begin(), end = server.root.steps.end();
    for (; own != end && own->phase <= server::Phase::access; ++own) steps.push_back(*own);
    steps.push_back({run_handler_access, server::Phase::access, 0});
    steps.push_back({after_access, server::Phase::post_access, 0});
    for (; own != end && own->phase < server::Phase::content; ++own) {
        if (own->phase != server::Phase::post_access) steps.push_back(*own);
    }
    steps.push_back({run_handler_content, server::Phase::content, 0});
    uint16_t next = uint16_t(steps.size());
    for (size_t i = steps.size(); i-- > 0;) {
        if (i + 1 < steps.size() && steps[i].phase != steps[i + 1].phase) next = uint16_t(i + 1);
        steps[i].phase_end = next;
    }
    return steps.data();
}

// Runs first in every location: the request goes on outside of it, below an added folder.
Verdict take_from_location(Request& request) {
    if (folders().added == 0 || taken(request)) [[likely]] return Verdict::decline();
    const server::Location& location = *request.location;
    bool is_prefix = location.kind == server::Location::prefix ||
                     location.kind == server::Location::prefix_no_regex ||
                     location.kind == server::Location::server_root;
    if (!is_prefix || request.internal) return Verdict::decline();
    std::shared_ptr<HandlerTree> tree = find_added(request.uri);
    if (!tree || location.name.size() > tree->prefix().size()) return Verdict::decline();
    request.set_state(lua_handlers_main, request.arena.make<Taken>(Taken{std::move(tree)}));
    request.location = &request.server->root;
    request.use_location_log();
    request.steps = steps_of_added(*request.server);
    request.cursor = 0;
    return Verdict::redirect();
}

constexpr server::PhaseHandler phase_handlers[] = {
    {server::Phase::rewrite, server::rank::first, take_from_location, may_be_added},
    {server::Phase::access, server::rank::script + 1, run_handler_access, has_own_handlers},
};

constexpr server::Filter filters[] = {
    {server::FilterSlot::lua, run_handler_header_filters, nullptr, may_have_handlers},
};

// ---- the worker ----

// A file was changed, or a module that one has required.
void listen(const std::string& path, bool by_module) {
    if (!by_module) return;
    for (auto& tree : folders().all) {
        if (!core::Slice(path).starts_with(tree->real_folder())) continue;
        core::Slice within = core::Slice(path).substr(tree->real_folder().size());
        tree->each_file([&](const std::shared_ptr<HandlerFile>& file) {
            if (file->path != within) return;
            file->rerun = true;
            file->change();
            load_in_background(file);
        });
    }
}

Result<void> init_worker(server::Worker& worker);
void exit_worker(server::Worker&) {
    end_background_loading();
    for (auto& tree : folders().all) tree->stop();
    folders().all.clear();
    folders().added = 0;
    folders().steps.clear();
}

Result<void> prepare(server::Configuration& configuration) {
    if (!configuration.http_level() || folders().wanted_by != &configuration) return {};
    configuration.http<MainConf>(lua_handlers_main).takes_more = true;
    configuration.http<LuaMainConf>(lua_main_module).follows_files = true;
    return {};
}

}  // namespace

constinit const server::Module lua_handlers_main{.name = "lua_handlers_main",
                                                 .conf = server::conf_of<MainConf>,
                                                 .prepare = prepare,
                                                 .init_worker = init_worker,
                                                 .exit_worker = exit_worker,
                                                 .has_request_state = true};
REGISTER_MODULE(lua_handlers_main);

namespace {

MainConf& configured(const Line& line) {
    auto& configuration = *static_cast<server::Configuration*>(line.binder.subject);
    return *static_cast<MainConf*>(
        line.binder.own(*configuration.http_level(), lua_handlers_main.index));
}

Result<void> init_worker(server::Worker& worker) {
    if (!worker.configuration.http_level() || worker.id < 0) return {};
    const auto& trees = worker.configuration.http<MainConf>(lua_handlers_main).trees;
    if (trees.empty() && !may_be_added(nullptr)) return {};
    start_watching();
    add_file_listener(listen);
    for (auto& tree : trees) {
        tree->start(*folder_watcher(), load_in_background);
        folders().all.push_back(tree);
    }
    return {};
}

}  // namespace

constinit const server::Module lua_handlers_module{
    .name = "lua_handlers",
    .conf = server::conf_of<Conf>,
    .directives = directives,
    .handlers = phase_handlers,
    .filters = filters,
    .has_request_state = true,
};
REGISTER_MODULE(lua_handlers_module);

HandlerTree* handler_tree_of(Request& request) {
    if (folders().ever_added) [[unlikely]] {
        if (Taken* by = taken(request)) return by->tree.get();
    }
    return request.conf<Conf>(lua_handlers_module).tree.get();
}

namespace {

int refuse_change(lua_State* L) {
    return luaL_error(L, "a route without parameters has a table that cannot be changed");
}

// The table of all routes without parameters, as a registry reference.
int make_empty_table(lua_State* L) {
    lua_newtable(L);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, refuse_change);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

}  // namespace

void push_parameters(lua_State* L, const HandlerMatch::Parameter* parameters, int count) {
    static const LuaVm* made_in = nullptr;
    static int empty_table = LUA_NOREF;
    if (count == 0) {
        if (made_in != LuaVm::current()) [[unlikely]] {
            empty_table = make_empty_table(L);
            made_in = LuaVm::current();
        }
        return lua_rawgeti(L, LUA_REGISTRYINDEX, empty_table);
    }
    lua_createtable(L, 0, count);
    for (int i = 0; i < count; ++i) {
        push_slice(L, parameters[i].name());
        push_slice(L, parameters[i].value());
        lua_rawset(L, -3);
    }
}

// ---- what others may know ----

void for_each_handler_folder(const std::function<void(const HandlerFolderInfo&)>& visit) {
    auto& configuration = server::Configuration::current();
    if (!server::Worker::current() && configuration.http_level()) {
        for (auto& tree : configuration.http<MainConf>(lua_handlers_main).trees) {
            visit({tree->prefix(), tree->folder(), 0, true, false});
        }
    }
    for (auto& tree : folders().all) {
        visit({tree->prefix(), tree->folder(), tree->files(), tree->configured(),
               tree->is_polled()});
    }
}

void for_each_handler_file(const std::function<void(const HandlerFileInfo&)>& visit) {
    for (auto& tree : folders().all) {
        tree->each_file([&](const std::shared_ptr<HandlerFile>& known) {
            const HandlerFile& file = *known;
            HandlerFileInfo info;
            info.prefix = tree->prefix();
            info.path = file.path;
            info.version = file.version;
            info.modified_ms = file.stamp.modified_ns / 1000000;
            info.loaded_ms = file.loaded_ms;
            info.error = file.error;
            info.line = line_in(file.error);
            info.error_ms = file.error.empty() ? 0 : file.error_ms;
            visit(info);
        });
    }
}

// ---- adding and removing ----

void want_handlers() { folders().wanted_by = &server::Configuration::current(); }

namespace {

using Tree = std::shared_ptr<HandlerTree>;

Tree* find_added_at(const std::string& prefix) {
    for (Tree& tree : folders().all) {
        if (!tree->configured() && tree->prefix() == prefix) return &tree;
    }
    return nullptr;
}

void put(const Tree& tree) {
    Tree* before = find_added_at(tree->prefix());
    if (before) (*before)->stop();
    if (before) *before = tree;
    else folders().all.push_back(tree);
    if (!before) ++folders().added;
    folders().ever_added = true;
}

void take_away(const std::string& prefix) {
    Tree* tree = find_added_at(prefix);
    if (!tree) return;
    (*tree)->stop();
    folders().all.erase(folders().all.begin() + (tree - folders().all.data()));
    --folders().added;
}

}  // namespace

core::Result<std::function<void()>> stage_handlers(core::Slice prefix, core::Slice folder) {
    auto refused = [](std::string why) { return core::Error{std::move(why), core::Fault::client}; };
    if (!may_be_added(nullptr)) return refused("this server takes no handlers at run time");
    if (!prefix.starts_with('/')) return refused("invalid prefix: it begins with \"/\"");
    std::string below = with_slash(prefix), path(folder);
    if (folder.empty()) return std::function<void()>([below] { take_away(below); });
    if (!folder.starts_with('/'))
        path = server::Configuration::current().options().prefix + path;
    if (real_path(path + "/").empty()) return refused("there is no folder \"" + path + "\"");
    // Workers may see less than the master does.
    if (::access(path.c_str(), R_OK | X_OK) != 0) {
        return refused(core::format("folder \"%s\" cannot be read (%d: %s)", path.c_str(), errno,
                                    core::error_name(errno)));
    }
    if (!folder_watcher()) return std::function<void()>([] {});
    auto tree = std::make_shared<HandlerTree>(below, path, false);
    tree->start(*folder_watcher(), load_in_background);
    return std::function<void()>([tree] { put(tree); });
}

core::Result<void> add_handlers(core::Slice prefix, core::Slice folder) {
    if (folder.empty()) return core::Error{"the folder is missing", core::Fault::client};
    auto staged = stage_handlers(prefix, folder);
    if (!staged) return staged.take_error();
    (*staged)();
    return {};
}

core::Result<void> remove_handlers(core::Slice prefix) {
    if (!find_added_at(with_slash(prefix)))
        return core::Error{"no handlers were added for \"" + with_slash(prefix) + "\"",
                           core::Fault::client};
    take_away(with_slash(prefix));
    return {};
}

}  // namespace lua
