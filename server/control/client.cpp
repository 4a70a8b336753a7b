// The commands of `resty-server ctl`: each becomes one request.
#include "server/control/client.h"

#include <poll.h>
#include <simdjson.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <vector>

#include "conf/parser.h"
#include "conf/values.h"
#include "core/clock.h"
#include "core/json_writer.h"
#include "core/text.h"
#include "server/command_paths.h"
#include "server/control/resource.h"

namespace server {

namespace {

enum Exit { done = 0, refused = 1, bad_command = 2, unreachable = 3, stale = 4, failed = 5 };

using Arguments = std::vector<std::string>;

struct Order {
    std::string method, path, body;
};

struct Options {
    ControlTarget target;
    std::string prefix, conf, token_file, if_match;
    bool json = false, dry_run = false, no_wait = false;
};

[[noreturn]] void usage_error(const std::string& what) { throw CLI::ValidationError(what); }

// ---- what commands ask for ----

std::string read_file(const std::string& path) {
    if (path == "-") return {std::istreambuf_iterator<char>(std::cin), {}};
    std::ifstream file(path, std::ios::binary);
    if (!file) usage_error("cannot read \"" + path + "\"");
    return {std::istreambuf_iterator<char>(file), {}};
}

// "weight=5", "backup", "fail_timeout=30s": as in a server line.
void write_setting(core::JsonWriter& to, const std::string& setting) {
    size_t equals = setting.find('=');
    std::string name = setting.substr(0, equals);
    if (equals == std::string::npos) {
        to.member(name, true);
        return;
    }
    std::string value = setting.substr(equals + 1);
    if (name == "fail_timeout" || name == "slow_start") {
        auto ms = conf::parse_time_ms(value);
        if (core::parse_number(value)) ms = conf::parse_time_ms(value + "s");
        if (!ms) usage_error("invalid time in \"" + setting + "\"");
        if (*ms % 1000 == 0) to.member(name, *ms / 1000);
        else to.member(name, double(*ms) / 1000);
    } else if (value == "true" || value == "false") {
        to.member(name, value == "true");
    } else if (auto number = core::parse_number(value)) {
        to.member(name, *number);
    } else {
        to.member(name, value);
    }
}

std::string peer_json(const std::string& address, Arguments::const_iterator setting,
                      Arguments::const_iterator end) {
    core::JsonWriter json;
    json.begin_object();
    if (!address.empty()) json.member("address", address);
    for (; setting != end; ++setting) write_setting(json, *setting);
    json.end_object();
    return json.take();
}

// "127.0.0.1:80,weight=2,backup"
std::string peer_json(const std::string& text) {
    Arguments parts;
    for (size_t at = 0; at <= text.size();) {
        size_t comma = std::min(text.find(',', at), text.size());
        parts.push_back(text.substr(at, comma - at));
        at = comma + 1;
    }
    return peer_json(parts[0], parts.begin() + 1, parts.end());
}

std::string peers_path(const Arguments& given) {
    return "/v1/upstreams/" + encode_segment(given[0]) + "/peers";
}
std::string peer_path(const Arguments& given) {
    return peers_path(given) + "/" + encode_segment(given[1]);
}
std::string entry_path(const Arguments& given) {
    return "/v1/maps/" + encode_segment(given[0]) + "/" + encode_segment(given[1]);
}
std::string one(const char* resource, const Arguments& given) {
    return std::string("/v1/") + resource + "/" + encode_segment(given[0]);
}

Order replace_peers(const Arguments& given) {
    core::JsonWriter json;
    json.begin_array();
    for (size_t i = 1; i < given.size(); ++i) json.raw(peer_json(given[i]));
    json.end_array();
    return {"PUT", peers_path(given), json.take()};
}

std::string member(const char* name, const std::string& value) {
    core::JsonWriter json;
    json.begin_object().member(name, value).end_object();
    return json.take();
}

Order set_certificate(const Arguments& given) {
    core::JsonWriter json;
    json.begin_object().member("certificate", read_file(given[1]));
    json.member("key", read_file(given[2])).end_object();
    return {"PUT", one("certificates", given), json.take()};
}

// Nothing, LEVEL, or "reset"; and the process.
Order log_level(const Arguments& given) {
    std::string path = "/v1/log-level";
    if (given.empty()) return {"GET", path, ""};
    if (given.size() > 1) path += "/" + encode_segment(given[1]);
    if (given[0] == "reset") return {"DELETE", path, ""};
    return {"PUT", path, member("level", given[0])};
}

Order ask(const Arguments& given) {
    return {given[0], given[1], given.size() > 2 ? given[2] : ""};
}

struct Command {
    const char* group;                     // empty: the command stands alone
    const char* name;
    const char* arguments;
    size_t least, most;
    const char* help;
    Order (*build)(const Arguments& given);
};

using A = const Arguments&;
constexpr size_t many = 10000;
const Command commands[] = {
    {"", "status", "", 0, 0, "what runs, and at which version",
     [](A) { return Order{"GET", "/v1/status", ""}; }},
    {"", "ping", "", 0, 0, "whether anybody answers",
     [](A) { return Order{"GET", "/v1/ping", ""}; }},
    {"", "version", "", 0, 0, "the number of the last change",
     [](A) { return Order{"GET", "/v1/version", ""}; }},
    {"changes", "list", "", 0, 0, "what differs from the configuration",
     [](A) { return Order{"GET", "/v1/changes", ""}; }},
    {"changes", "apply", "FILE", 1, 1, "several changes, all or none: {\"changes\":[…]}; -: stdin",
     [](A given) { return Order{"POST", "/v1/changes", read_file(given[0])}; }},
    {"changes", "reset", "", 0, 0, "everything as configured",
     [](A) { return Order{"DELETE", "/v1/changes", ""}; }},
    {"peers", "list", "[UPSTREAM]", 0, 1, "upstreams, or the peers of one",
     [](A given) {
         return Order{"GET", given.empty() ? "/v1/upstreams" : peers_path(given), ""};
     }},
    {"peers", "add", "UPSTREAM ADDRESS [weight=N] [backup] [down] [max_conns=N] …", 2, many,
     "one more peer",
     [](A given) {
         return Order{"POST", peers_path(given),
                      peer_json(given[1], given.begin() + 2, given.end())};
     }},
    {"peers", "set", "UPSTREAM ADDRESS SETTING…", 3, many, "changes a peer: weight=5 down=false",
     [](A given) {
         return Order{"PATCH", peer_path(given),
                      peer_json("", given.begin() + 2, given.end())};
     }},
    {"peers", "remove", "UPSTREAM ADDRESS", 2, 2, "one peer less",
     [](A given) { return Order{"DELETE", peer_path(given), ""}; }},
    {"peers", "replace", "UPSTREAM ADDRESS[,SETTING…]…", 2, many, "all peers at once",
     replace_peers},
    {"peers", "reset", "UPSTREAM", 1, 1, "as configured",
     [](A given) { return Order{"DELETE", peers_path(given), ""}; }},
    {"cert", "list", "", 0, 0, "certificates",
     [](A) { return Order{"GET", "/v1/certificates", ""}; }},
    {"cert", "show", "NAME", 1, 1, "one that was set",
     [](A given) { return Order{"GET", one("certificates", given), ""}; }},
    {"cert", "set", "NAME CERTIFICATE KEY", 3, 3, "for a server name, from PEM files",
     set_certificate},
    {"cert", "remove", "NAME", 1, 1, "one that was set",
     [](A given) { return Order{"DELETE", one("certificates", given), ""}; }},
    {"map", "list", "[VARIABLE]", 0, 1, "maps, or the entries of one",
     [](A given) { return Order{"GET", given.empty() ? "/v1/maps" : one("maps", given), ""}; }},
    {"map", "get", "VARIABLE KEY", 2, 2, "one entry",
     [](A given) { return Order{"GET", entry_path(given), ""}; }},
    {"map", "set", "VARIABLE KEY VALUE", 3, 3, "adds or changes an entry",
     [](A given) { return Order{"PUT", entry_path(given), member("value", given[2])}; }},
    {"map", "remove", "VARIABLE KEY", 2, 2, "removes an entry",
     [](A given) { return Order{"DELETE", entry_path(given), ""}; }},
    {"map", "reset", "VARIABLE", 1, 1, "as configured",
     [](A given) { return Order{"DELETE", one("maps", given), ""}; }},
    {"handlers", "list", "", 0, 0, "folders of handlers",
     [](A) { return Order{"GET", "/v1/handlers", ""}; }},
    {"handlers", "add", "PREFIX FOLDER", 2, 2, "serves a folder below a prefix",
     [](A given) { return Order{"PUT", one("handlers", given), member("folder", given[1])}; }},
    {"handlers", "remove", "PREFIX", 1, 1, "one that was added",
     [](A given) { return Order{"DELETE", one("handlers", given), ""}; }},
    {"", "log-level", "[LEVEL | reset] [all | master | worker-N]", 0, 2,
     "how much the error logs say", log_level},
    {"", "reload", "", 0, 0, "reads the configuration anew, and waits for what comes of it",
     [](A) { return Order{"POST", "/v1/reload", ""}; }},
    {"", "reopen", "", 0, 0, "opens the log files anew",
     [](A) { return Order{"POST", "/v1/reopen", ""}; }},
    {"", "quit", "", 0, 0, "ends the server when its requests are done",
     [](A) { return Order{"POST", "/v1/quit", ""}; }},
    {"", "stop", "", 0, 0, "ends the server at once",
     [](A) { return Order{"POST", "/v1/stop", ""}; }},
    {"", "ask", "METHOD PATH [JSON]", 2, 3, "any request: ask GET /v1/status", ask},
};

// ---- where the socket is ----

// The first control_socket, else control_listen, of a configuration file.
void find_target(Options& options) {
    ControlTarget& target = options.target;
    if (!options.token_file.empty()) {
        target.token = core::trim(read_file(options.token_file).c_str());
        while (target.token.ends_with('\n')) target.token.pop_back();
    }
    if (!target.socket.empty() || !target.host.empty()) return;
    CommandPaths paths = find_paths(options.prefix, options.conf);
    std::string folder = paths.conf.substr(0, paths.conf.rfind('/') + 1);
    conf::Tree tree;
    auto read = conf::parse_file(paths.conf, {.prefix = paths.prefix, .conf_prefix = folder}, tree);
    if (!read) usage_error(read.error().what);
    for (const conf::Node& node : tree.nodes) {
        if (node.name != "control_socket" || node.args.empty() || node.args[0] == "off") continue;
        core::Slice path = node.args[0];
        if (path.starts_with("unix:")) path.remove_prefix(5);
        target.socket = (path.starts_with('/') ? "" : paths.prefix) + std::string(path);
        return;
    }
    for (const conf::Node& node : tree.nodes) {
        if (node.name != "control_listen" || node.args.size() != 2) continue;
        target.host = node.args[0];
        core::Slice token = node.args[1];
        if (token.starts_with("token=")) target.token = token.substr(6);
        return;
    }
    usage_error("\"" + paths.conf + "\" has no control_socket; -s names one");
}

// ---- what comes of it ----

Exit exit_of(int status) {
    if (status == 0) return unreachable;
    if (status < 400) return done;
    if (status == 409 || status == 412) return stale;
    return status >= 500 ? failed : refused;
}

void complain(const std::string& what) {
    std::fprintf(stderr, "resty-server ctl: %s\n", what.c_str());
}

std::string error_of(const std::string& body) {
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    std::string_view text;
    int64_t worker;
    if (parser.parse(body).get(root) || root["error"]["message"].get(text)) return body;
    std::string what(text);
    if (!root["error"]["worker"].get(worker)) what += " (worker " + std::to_string(worker) + ")";
    return what;
}

// A reload is over when the server counts one more and its workers are up.
Exit wait_for_reload(const Options& options, const std::string& began) {
    simdjson::dom::parser parser;
    simdjson::dom::element root;
    uint64_t before, now;
    if (parser.parse(began).get(root) || root["reloads"].get(before)) return failed;
    core::Clock::update();
    int64_t end = core::Clock::monotonic_ms() + options.target.timeout_s * 1000;
    constexpr int pause_ms = 20;
    while (core::Clock::monotonic_ms() < end) {
        ControlReply reply = ask_control(options.target, "GET", "/v1/status", "", "");
        bool settled = false;
        bool read = !parser.parse(reply.body).get(root) && !root["reloads"].get(now) &&
                    !root["settled"].get(settled);
        if (read && now > before && settled) {
            std::string_view error;
            if (root["reload_error"].get(error)) return done;
            complain(std::string(error));
            return refused;
        }
        ::poll(nullptr, 0, pause_ms);
        core::Clock::update();
    }
    complain("the reload is not over yet");
    return failed;
}

Exit run(const Options& options, const Order& order) {
    std::string path = order.path;
    if (options.dry_run) path += "?dry_run=1";
    ControlReply reply =
        ask_control(options.target, order.method, path, order.body, options.if_match);
    Exit exit = exit_of(reply.status);
    if (exit != done) {
        if (options.json && reply.status) std::printf("%s\n", reply.body.c_str());
        else complain(error_of(reply.body));
        return exit;
    }
    if (order.path == "/v1/reload" && !options.no_wait) {
        return wait_for_reload(options, reply.body);
    }
    std::string text = options.json ? reply.body + "\n" : show_reply(order.path, reply.body);
    std::fputs(text.c_str(), stdout);
    return done;
}

void declare(CLI::App& app, Options& options, Arguments& given, const Command*& chosen) {
    app.description("Asks and changes a running server through its control socket.");
    app.add_option("-s,--socket", options.target.socket, "the control socket")
        ->envname("RESTY_CONTROL_SOCKET");
    app.add_option("-c", options.conf, "the configuration file that names it");
    app.add_option("-p", options.prefix, "the server's prefix");
    app.add_option("--tcp", options.target.host, "ADDRESS:PORT of a control_listen");
    app.add_option("--token", options.target.token, "its token")->envname("RESTY_CONTROL_TOKEN");
    app.add_option("--token-file", options.token_file, "a file with it");
    app.add_option("--if-match", options.if_match, "the version that the change is meant for");
    app.add_option("--timeout", options.target.timeout_s, "seconds to wait for an answer");
    app.add_flag("--dry-run", options.dry_run, "all checks, and no change");
    app.add_flag("--json", options.json, "answers as they come");
    app.add_flag("--no-wait", options.no_wait, "reload: do not wait");
    app.require_subcommand(1);
    app.fallthrough();
    std::map<std::string, CLI::App*> groups;
    for (const Command& command : commands) {
        CLI::App* in = &app;
        if (*command.group) {
            CLI::App*& group = groups[command.group];
            if (!group) {
                group = app.add_subcommand(command.group)->require_subcommand(1)->fallthrough();
            }
            in = group;
        }
        CLI::App* made = in->add_subcommand(command.name, command.help)->fallthrough();
        if (command.most) {
            auto* option = made->add_option("arguments", given, command.help);
            option->type_name(command.arguments)->expected(0, int(command.most));
        }
        made->final_callback([&given, &chosen, &command] {
            chosen = &command;
            if (given.size() >= command.least && given.size() <= command.most) return;
            usage_error(std::string(command.name) + " wants " +
                        (*command.arguments ? command.arguments : "no arguments"));
        });
    }
}

}  // namespace

int run_control_client(int argc, char** argv) {
    Options options;
    Arguments given;
    const Command* chosen = nullptr;
    CLI::App app("", "resty-server ctl");
    declare(app, options, given, chosen);
    try {
        app.parse(argc, argv);
        find_target(options);
        return run(options, chosen->build(given));
    } catch (const CLI::CallForHelp& help) {
        return app.exit(help);
    } catch (const CLI::CallForAllHelp& help) {
        return app.exit(help);
    } catch (const CLI::ParseError& error) {
        complain(error.what());
        return bad_command;
    }
}

}  // namespace server
