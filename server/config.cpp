// Loads a configuration: parse, bind, inherit, prepare, and the tables that route requests. Called
// by main and, on a reload, by the master. Listen addresses are in config_listen.cpp.
#include "server/config.h"

#include <utility>

#include "conf/environment.h"
#include "conf/parser.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/phases.h"
#include "server/http/router.h"
#include "server/http/variables.h"
#include "server/stream/blocks.h"

namespace server {

namespace {

Configuration* current_configuration = nullptr;

std::vector<conf::ModuleTable> module_tables() {
    std::vector<conf::ModuleTable> tables;
    for (const Module* module : modules()) {
        tables.push_back({module->name, module->directives.data(), module->directives.size(),
                          module->conf.create, module->conf.destroy, module->conf.merge});
    }
    return tables;
}

std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1); }

// What is known of a location only when everything has been inherited.
void complete(Location& location) {
    location.confs = location.level->all();
    location.core = &location.conf<CoreConf>(http_core);
    if (location.kind == Location::server_root || !location.nested.empty()) {
        location.tree = std::make_unique<LocationTree>(location.nested);
    }
}

}  // namespace

Configuration::~Configuration() {
    if (current_configuration == this) current_configuration = nullptr;
}

Configuration& Configuration::current() { return *current_configuration; }

void Configuration::make_current() { current_configuration = this; }

core::Result<std::unique_ptr<Configuration>> Configuration::load(const LoadOptions& options) {
    Configuration* previous = current_configuration;
    std::unique_ptr<Configuration> loaded(new Configuration);
    loaded->options_ = options;
    loaded->make_current();
    auto done = loaded->read();
    // Also after a syntax error: what is wrong further up in the file is said first.
    if (done || loaded->tree_.syntax_error) done = loaded->bind();
    if (done) done = loaded->prepare();
    for (const std::string& warning : loaded->binder_->warnings()) {
        LOG(core::process_log(), warn, 0, "%s", warning.c_str());
    }
    if (done) return loaded;
    current_configuration = previous;
    return done.take_error();
}

core::Result<void> Configuration::read() {
    binder_ = std::make_unique<conf::Binder>(module_tables());
    binder_->subject = this;
    binder_->prefix = options_.prefix;
    binder_->conf_prefix = folder_of(options_.path);
    variables_ = std::make_unique<VariableTable>();
    for (const Module* module : modules()) {
        if (module->begin) module->begin(*this);
    }
    conf::Environment environment;
    conf::ParseOptions parsing{.prefix = options_.prefix, .conf_prefix = binder_->conf_prefix,
                               .environment = &environment};
    for (const std::string& text : options_.globals) {
        auto read = conf::parse_text(text, conf::command_line_name, parsing, tree_);
        if (!read) return read;
    }
    return conf::parse_file(options_.path, parsing, tree_);
}

core::Result<void> Configuration::bind() {
    main_level_ = std::make_unique<conf::Level>(modules().size(), nullptr, conf::in_main);
    levels.push_back(main_level_.get());
    auto bound = binder_->bind(tree_.nodes, *main_level_, tree_);
    if (!bound) return bound;
    if (error_log.outputs.empty()) {
        auto opened = open_default_log();
        if (!opened) return opened;
    }
    auto inherited = binder_->inherit(levels);
    if (!inherited) return inherited;
    return variables_->check(*binder_);
}

conf::Result<void> Configuration::bind_http(const conf::Line& line) {
    if (http_level_) return conf::detail::duplicate();
    http_level_ =
        std::make_unique<conf::Level>(modules().size(), main_level_.get(), conf::in_http);
    levels.push_back(http_level_.get());
    return binder_->bind_block(line, *http_level_);
}

// Without any error_log the main one is what -e names, or logs/error.log.
core::Result<void> Configuration::open_default_log() {
    std::string target = options_.error_log.empty() ? "logs/error.log" : options_.error_log;
    core::LogSinkError error;
    auto sink = core::open_log_sink(target, options_.prefix, error);
    if (!sink) {
        return core::Error{core::format("%s (%d: %s)", error.what.c_str(), error.system_error,
                                        core::error_name(error.system_error))};
    }
    error_log.add(std::move(sink), core::Level::error);
    return {};
}

core::Result<void> Configuration::prepare() {
    for (auto& server : servers) complete(server->root);
    for (Location* location : locations) {
        if (location->kind != Location::server_root) complete(*location);
    }
    auto routed = build_routes();
    if (!routed) return routed;
    for (const Module* module : modules()) {
        if (!module->prepare) continue;
        auto prepared = module->prepare(*this);
        if (!prepared) return prepared;
    }
    // Once more: hooks may have brought in texts with variables of their own.
    auto checked = variables_->check(*binder_);
    if (!checked) return checked;
    build_steps(*this);
    return {};
}

conf::Result<void> set_content_handler(const conf::Line& line, Verdict (*handler)(Request&)) {
    Location* location = Configuration::current().binding_location;
    if (!location) {
        return conf::Error{"\"" + std::string(line.name()) + "\" directive is not allowed here"};
    }
    // As in nginx the last one wins.
    if (location->content_handler && location->content_handler != handler) {
        line.binder.warn(line.node.place, "\"" + std::string(line.name()) +
                                              "\" replaces another content handler");
    }
    location->content_handler = handler;
    return {};
}

}  // namespace server
