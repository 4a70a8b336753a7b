// The headers_more module: sets and clears any field of responses (header filter) and of requests
// (end of the rewrite phase, before scripts).
#include <algorithm>
#include <cstring>

#include "conf/binder.h"
#include "conf/values.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/http/response_fields.h"
#include "server/http/variables.h"

namespace server {

namespace {

struct Field {
    std::string name;            // without the '*' of a wildcard
    ComplexValue value;          // empty: the field is cleared
    bool wildcard = false;
};

struct Command {
    std::vector<Field> fields;
    std::vector<std::string> types;      // -t
    std::vector<int> statuses;           // -s
    bool append = false;                 // -a
    bool only_replace = false;           // -r
};

struct Conf {
    std::vector<Command> output;
    std::vector<Command> input;
};

const Module& module();

// ---- configuration ----

enum class Side : uint8_t { output, input };

conf::Error error(const conf::Line& line, core::Slice text) {
    return conf::Error{std::string(line.name()) + ": " + std::string(text)};
}

template <class Add>
void each_word(core::Slice text, Add add) {
    while (true) {
        size_t begin = text.find_first_not_of(" \t\r\n");
        if (begin == core::Slice::npos) return;
        text.remove_prefix(begin);
        size_t size = std::min(text.find_first_of(" \t\r\n"), text.size());
        add(text.substr(0, size));
        text.remove_prefix(size);
    }
}

conf::Result<void> parse_statuses(Command& command, const conf::Line& line, core::Slice text) {
    bool good = true;
    each_word(text, [&](core::Slice word) {
        auto status = core::parse_number(word, 999);
        if (status) {
            command.statuses.push_back(int(*status));
        } else {
            good = false;
        }
    });
    if (good) return {};
    return error(line, "invalid status code in \"" + std::string(text) + "\".");
}

// "Name: value", "Name:" or "Name".
conf::Result<void> parse_field(Command& command, const conf::Line& line, core::Slice text,
                               bool clear) {
    constexpr core::Slice spaces = " \t\r\n\v\f";
    size_t begin = std::min(text.find_first_not_of(spaces), text.size());
    text.remove_prefix(begin);
    size_t size = std::min(text.find_first_of(": \t\r\n\v\f"), text.size());
    if (size == 0) {
        return error(line, "no key found in the header argument: " + std::string(text));
    }
    Field field;
    field.name = text.substr(0, size);
    field.wildcard = field.name.back() == '*';
    if (field.wildcard) {
        field.name.pop_back();
        if (field.name.empty()) {
            return error(line, "wildcard key too short: " + std::string(text));
        }
    }
    core::Slice value = text.substr(size);
    value.remove_prefix(std::min(value.find_first_not_of(": \t\r\n\v\f"), value.size()));
    if (!clear && !value.empty()) {
        auto compiled = ComplexValue::compile(value, line);
        if (!compiled) return compiled.take_error();
        field.value = std::move(*compiled);
    }
    command.fields.push_back(std::move(field));
    return {};
}

bool is_built_in(core::Slice name) {
    constexpr core::Slice names[] = {
        "Server", "Date", "Content-Encoding", "Location", "Refresh", "Last-Modified",
        "Content-Range", "Accept-Ranges", "WWW-Authenticate", "Expires", "E-Tag",
        "Content-Length", "Content-Type", "Cache-Control",
    };
    return std::any_of(std::begin(names), std::end(names),
                       [&](core::Slice known) { return core::iequals(known, name); });
}

conf::Result<void> check_append(const Command& command, const conf::Line& line) {
    for (const Field& field : command.fields) {
        if (command.append && is_built_in(field.name)) {
            return error(line, "can not append builtin headers \"" + field.name + "\"");
        }
    }
    return {};
}

conf::Result<void> parse(std::vector<Command>& to, const conf::Line& line, Side side, bool clear) {
    Command command;
    for (size_t i = 0; i < line.count(); ++i) {
        core::Slice arg = line.arg(i);
        if (arg.empty()) continue;
        conf::Result<void> parsed;
        bool takes_argument = arg == "-t" || (arg == "-s" && side == Side::output);
        if (arg[0] != '-') {
            parsed = parse_field(command, line, arg, clear);
        } else if (takes_argument && i + 1 == line.count()) {
            return error(line, "option " + std::string(arg) + " takes an argument.");
        } else if (arg == "-t") {
            each_word(line.arg(++i), [&](core::Slice word) { command.types.emplace_back(word); });
        } else if (takes_argument) {
            parsed = parse_statuses(command, line, line.arg(++i));
        } else if (arg == "-a" && side == Side::output && !clear) {
            command.append = true;
        } else if (arg == "-r" && side == Side::input) {
            command.only_replace = true;
        } else {
            return error(line, "invalid option name: \"" + std::string(arg) + "\"");
        }
        if (!parsed) return parsed;
    }
    auto checked = check_append(command, line);
    if (!checked) return checked;
    to.push_back(std::move(command));
    return {};
}

conf::Result<void> set_output(Conf& conf, const conf::Line& line) {
    return parse(conf.output, line, Side::output, false);
}
conf::Result<void> clear_output(Conf& conf, const conf::Line& line) {
    return parse(conf.output, line, Side::output, true);
}
conf::Result<void> set_input(Conf& conf, const conf::Line& line) {
    return parse(conf.input, line, Side::input, false);
}
conf::Result<void> clear_input(Conf& conf, const conf::Line& line) {
    return parse(conf.input, line, Side::input, true);
}

// The enclosing level's commands run first.
conf::Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    conf.output.insert(conf.output.begin(), outer->output.begin(), outer->output.end());
    conf.input.insert(conf.input.begin(), outer->input.begin(), outer->input.end());
    return {};
}

// ---- responses ----

bool applies(const Command& command, const Response& response) {
    if (!command.types.empty()) {
        core::Slice type = response.content_type.substr(0, response.content_type.find(';'));
        if (std::find(command.types.begin(), command.types.end(), type) == command.types.end()) {
            return false;
        }
    }
    return command.statuses.empty() ||
           std::find(command.statuses.begin(), command.statuses.end(), int(response.status)) !=
               command.statuses.end();
}

// A wildcard sets the fields that are there, and adds none.
void set_matching(HeaderList& headers, core::Slice prefix, core::Slice value) {
    bool matched = false;
    for (Header& field : headers) {
        if (field.removed || !core::istarts_with(field.name, prefix)) continue;
        field.removed = matched;
        field.value = value;
        matched = true;
    }
}

bool run_output(Request& request, const Command& command) {
    Response& response = request.response;
    if (!applies(command, response)) return true;
    for (const Field& field : command.fields) {
        core::Slice value = field.value.evaluate(request);
        if (field.wildcard) {
            if (value.empty()) {
                clear_response_fields(response, field.name);
            } else {
                set_matching(response.headers, field.name, value);
            }
        } else if (command.append) {
            if (!value.empty()) response.headers.add(field.name, value);
        } else if (!set_response_field(response, field.name, value)) {
            return false;
        }
    }
    return true;
}

Verdict filter_header(Request& request) {
    for (const Command& command : request.conf<Conf>(module()).output) {
        if (!run_output(request, command)) return Verdict::reject(500);
    }
    return Verdict::pass();
}

// ---- requests ----

// What the server itself has read from a field follows its new value.
void note_change(Request& request, core::Slice name, core::Slice value) {
    switch (header_id(name)) {
    case HeaderId::host: {
        size_t bracket = value.rfind(']');
        size_t colon = value.find(':', bracket == core::Slice::npos ? 0 : bracket);
        core::Slice host = value.substr(0, colon);
        char* lower = request.arena.bytes(host.size());
        core::lower_into(lower, host);
        request.head.host = {lower, host.size()};
        break;
    }
    case HeaderId::content_length: {
        auto length = core::parse_number(value);
        request.head.content_length = length ? int64_t(*length) : -1;
        break;
    }
    case HeaderId::connection:
        if (core::ifind(value, "close") != core::Slice::npos) request.keep_alive = false;
        break;
    default: break;
    }
}

void run_field(Request& request, const Field& field, bool only_replace) {
    core::Slice value = field.value.evaluate(request);
    if (field.wildcard) {
        if (!value.empty()) return;
        for (Header& own : request.headers) {
            if (own.removed || !core::istarts_with(own.name, field.name)) continue;
            own.removed = true;
            note_change(request, own.name, {});
        }
        return;
    }
    if (value.empty()) {
        if (request.headers.remove(field.name)) note_change(request, field.name, {});
        return;
    }
    if (only_replace && !request.headers.find(field.name)) return;
    // Request fields are handed to C code and scripts as strings: with a NUL behind them.
    request.headers.set(field.name, request.arena.copy_z(value));
    note_change(request, field.name, value);
}

Verdict change_input(Request& request) {
    for (const Command& command : request.conf<Conf>(module()).input) {
        if (!command.types.empty()) {
            core::Slice type = request.headers.value(HeaderId::content_type);
            if (std::find(command.types.begin(), command.types.end(), type) ==
                command.types.end()) {
                continue;
            }
        }
        for (const Field& field : command.fields) run_field(request, field, command.only_replace);
    }
    return Verdict::decline();
}

constexpr uint32_t contexts = conf::in_any_http | conf::in_location_if;
constexpr conf::Directive directives[] = {
    {"more_set_headers", contexts, conf::takes_at_least(1), conf::call<set_output>},
    {"more_clear_headers", contexts, conf::takes_at_least(1), conf::call<clear_output>},
    {"more_set_input_headers", contexts, conf::takes_at_least(1), conf::call<set_input>},
    {"more_clear_input_headers", contexts, conf::takes_at_least(1), conf::call<clear_input>},
};

constexpr PhaseHandler handlers[] = {
    {Phase::rewrite, rank::late, change_input,
     [](const void* conf) { return !static_cast<const Conf*>(conf)->input.empty(); }},
};

constexpr Filter filters[] = {
    {FilterSlot::headers_more, filter_header, nullptr,
     [](const void* conf) { return !static_cast<const Conf*>(conf)->output.empty(); }},
};

constinit const Module headers_more{
    .name = "headers_more",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .handlers = handlers,
    .filters = filters,
};
const Module& module() { return headers_more; }
REGISTER_MODULE(headers_more);

}  // namespace

}  // namespace server
