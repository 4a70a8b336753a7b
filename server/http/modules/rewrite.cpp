// The rewrite module: set, if, return, rewrite, break. Each server and each location has one
// script, an array of steps in the order in which they are written; if blocks stand in it inline,
// and enter a location of their own when they apply. Runs in the server_rewrite and rewrite phases.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/regex.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/core_directives.h"
#include "server/http/escape.h"
#include "server/http/request.h"
#include "server/http/router.h"
#include "server/http/script.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

enum class Test : uint8_t { truth, equal, matches, file, directory, exists, executable };

struct Condition {
    Test test = Test::truth;
    bool negated = false;
    ComplexValue subject;             // the variable, or the path of a file test
    ComplexValue other;               // of = and !=
    std::shared_ptr<const core::Regex> regex;
    std::vector<std::pair<int, int>> captures;
    Location* block = nullptr;        // entered when it holds…
    size_t next = 0;                  // …else the step behind the block
};

struct Return {
    int status = 0;
    bool has_text = false;
    ComplexValue text;
};

struct Rewrite {
    std::shared_ptr<const core::Regex> regex;
    std::vector<std::pair<int, int>> captures;
    ComplexValue path;                // of the replacement, up to a literal '?'
    ComplexValue args;                // behind it
    bool has_args = false;
    bool keep_args = true;            // the request's own are appended
    bool ends = false;                // last, break, redirect, permanent
    bool breaks = false;
    int redirect = 0;                 // 301, 302
};

struct ScriptStep {
    enum Kind : uint8_t { set, call, condition, return_, rewrite, break_ } kind;
    int variable = -1;
    ComplexValue value;
    ScriptFunction function = nullptr;
    const void* data = nullptr;
    std::unique_ptr<Condition> when;
    std::unique_ptr<Return> answer;
    std::unique_ptr<Rewrite> change;
};

using Script = std::vector<ScriptStep>;

struct RewriteConf {
    std::shared_ptr<Script> script;   // an if block's is that of the location around it
    conf::Setting<bool> log{false};
    conf::Setting<bool> warn_uninitialized{true};
};

const Module& rewrite_module();

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

// ---- running ----

Verdict run_location_script(Request& request);

bool logs(const Request& request) { return request.conf<RewriteConf>(rewrite_module()).log; }

#define LOG_REWRITE(request, ...) \
    do {                          \
        if (logs(request)) LOG((request).log, notice, 0, __VA_ARGS__); \
    } while (0)

bool matches(Request& request, const core::Regex& regex,
             const std::vector<std::pair<int, int>>& captures, Slice subject) {
    bool matched = match_captures(request, regex, subject, captures);
    if (!matched) request.captures.count = 0;
    LOG_REWRITE(request, "\"%s\" %s \"%.*s\"", regex.pattern().c_str(),
                matched ? "matches" : "does not match", int(subject.size()), subject.data());
    return matched;
}

bool test_file(Request& request, Test test, Slice path) {
    path = request.arena.copy_z(path);
    struct stat status;
    if (stat(path.data(), &status) != 0) {
        int error = errno;
        if (error != ENOENT && error != ENOTDIR && error != ENAMETOOLONG) {
            LOG(request.log, crit, error, "stat() \"%s\" failed", path.data());
        }
        return false;
    }
    switch (test) {
    case Test::file: return S_ISREG(status.st_mode);
    case Test::directory: return S_ISDIR(status.st_mode);
    case Test::executable: return status.st_mode & S_IXUSR;
    default: return S_ISREG(status.st_mode) || S_ISDIR(status.st_mode) || S_ISLNK(status.st_mode);
    }
}

bool holds(Request& request, const Condition& condition) {
    Slice subject = condition.subject.evaluate(request);
    bool is = false;
    switch (condition.test) {
    case Test::truth: is = !subject.empty() && subject != "0"; break;
    case Test::equal: is = subject == condition.other.evaluate(request); break;
    case Test::matches:
        is = matches(request, *condition.regex, condition.captures, subject);
        break;
    default: is = test_file(request, condition.test, subject);
    }
    return is != condition.negated;
}

// The request is now in the block: its configuration applies, and in the rewrite phase its steps
// go on where this script stands in them.
void enter(Request& request, const Location& block) {
    request.location = &block;
    if (block.core->error_log) request.log.log = block.core->error_log.get();
    if (request.phase != Phase::rewrite) return;
    for (size_t i = 0; i < block.steps.size(); ++i) {
        if (block.steps[i].run != run_location_script) continue;
        request.steps = block.steps.data();
        request.cursor = uint16_t(i);
        return;
    }
}

bool is_redirect(int status) {
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

Verdict answer(Request& request, const Return& step) {
    if (step.status >= 400 && !step.has_text) {
        return Verdict::reject(request.error_status ? request.error_status : step.status);
    }
    Slice text = step.text.evaluate(request);
    if (is_redirect(step.status)) {
        request.response.location = text;
        return Verdict::reject(step.status);
    }
    return request.respond(step.status, mime_type(request), text);
}

// Was the path of the client's target encoded? Then captures of it are, too, where they go into
// arguments or a redirect.
bool was_encoded(const Request& request) {
    Slice target = request.main->head.target;
    return target.substr(0, target.find('?')).find_first_of("%+") != Slice::npos;
}

void append(core::Appender& to, Request& request, const ComplexValue& value, bool escape_captures) {
    if (!escape_captures) return value.append_to(to, request);
    for (const ComplexValue::Part& part : value.parts()) {
        switch (part.kind) {
        case ComplexValue::Part::literal: to.append(Slice(part.text)); break;
        case ComplexValue::Part::variable: to.append(variable(request, part.index).text); break;
        case ComplexValue::Part::capture: {
            Slice group = request.captures.group(part.index);
            size_t bytes = group.size() + 2 * count_escapes(group, Escape::args);
            escape_into(to.reserve(bytes), group, Escape::args);
            to.advance(bytes);
        }
        }
    }
}

// Redirect targets are decoded as far as that leaves a well-formed URI, up to the arguments.
size_t decode_redirect(char* text, size_t size) {
    char* to = text;
    for (size_t i = 0; i < size; ++i) {
        char c = text[i];
        int high = i + 2 < size ? core::hex_value(text[i + 1]) : -1;
        int low = i + 2 < size ? core::hex_value(text[i + 2]) : -1;
        if (c == '%' && high >= 0 && low >= 0) {
            char decoded = char(high * 16 + low);
            if (decoded > '%' && decoded < 0x7f) {
                c = decoded;
                i += 2;
            }
        }
        *to++ = c;
        if (c != '?') continue;
        std::memmove(to, text + i + 1, size - i - 1);
        to += size - i - 1;
        break;
    }
    return size_t(to - text);
}

Verdict redirect(Request& request, const Rewrite& step) {
    core::Appender target(request.arena, 256);
    bool encoded = was_encoded(request);
    append(target, request, step.path, encoded);
    if (step.has_args) {
        target.append('?');
        append(target, request, step.args, encoded);
    }
    Slice written = target.take();
    size_t size = decode_redirect(const_cast<char*>(written.data()), written.size());
    Slice location(written.data(), size);
    if (step.keep_args && !request.args.empty()) {
        core::Appender with_args(request.arena, size + request.args.size() + 1);
        with_args.append(location);
        with_args.append(step.has_args ? '&' : '?');
        with_args.append(request.args);
        location = with_args.take();
    }
    LOG_REWRITE(request, "rewritten redirect: \"%.*s\"", int(location.size()), location.data());
    request.response.location = location;
    return Verdict::reject(step.redirect);
}

// Changes uri and args. False: the result is no URI.
bool change_uri(Request& request, const Rewrite& step) {
    request.internal = true;
    request.plain_uri = false;
    request.uri_changed = !step.breaks;
    core::Appender path(request.arena, 128);
    append(path, request, step.path, false);
    Slice uri = path.take();
    if (step.has_args) {
        core::Appender args(request.arena, 128);
        append(args, request, step.args, was_encoded(request));
        if (step.keep_args && !request.args.empty()) {
            args.append('&');
            args.append(request.args);
        }
        request.args = args.take();
    } else if (!step.keep_args) {
        request.args = {};
    }
    LOG_REWRITE(request, "rewritten data: \"%.*s\", args: \"%.*s\"", int(uri.size()), uri.data(),
                int(request.args.size()), request.args.data());
    if (uri.empty()) {
        LOG(request.log, error, 0, "the rewritten URI has a zero length");
        return false;
    }
    request.set_uri(uri);
    return true;
}

bool call(Request& request, const ScriptStep& step) {
    Value value;
    if (!step.function(request, step.data, value)) return false;
    if (step.variable < 0) return true;
    if (value.found) {
        set_variable(request, step.variable, value.text);
    } else {
        clear_variable(request, step.variable);
    }
    return true;
}

Verdict run(Request& request, const Script& script) {
    for (size_t at = 0; at < script.size(); ++at) {
        const ScriptStep& step = script[at];
        switch (step.kind) {
        case ScriptStep::set:
            set_variable(request, step.variable, step.value.evaluate(request));
            break;
        case ScriptStep::call:
            if (!call(request, step)) return Verdict::reject(500);
            break;
        case ScriptStep::condition:
            if (holds(request, *step.when)) {
                enter(request, *step.when->block);
            } else {
                at = step.when->next - 1;
            }
            break;
        case ScriptStep::return_: return answer(request, *step.answer);
        case ScriptStep::rewrite: {
            const Rewrite& change = *step.change;
            if (!matches(request, *change.regex, change.captures, request.uri)) break;
            if (change.redirect) return redirect(request, change);
            if (!change_uri(request, change)) return Verdict::reject(500);
            if (change.ends) return Verdict::decline();
            break;
        }
        case ScriptStep::break_: request.uri_changed = false; return Verdict::decline();
        }
    }
    return Verdict::decline();
}

Verdict run_server_script(Request& request) {
    return run(request, *request.conf<RewriteConf>(rewrite_module()).script);
}

// Outside every location the server's script has run already.
Verdict run_location_script(Request& request) {
    if (request.location->kind == Location::server_root) return Verdict::decline();
    return run(request, *request.conf<RewriteConf>(rewrite_module()).script);
}

bool has_script(const void* conf) {
    return static_cast<const RewriteConf*>(conf)->script != nullptr;
}

// ---- directives ----

Script& script_of(RewriteConf& conf) {
    if (!conf.script) conf.script = std::make_shared<Script>();
    return *conf.script;
}

ScriptStep& add_step(RewriteConf& conf, ScriptStep::Kind kind) {
    Script& script = script_of(conf);
    script.push_back({});
    script.back().kind = kind;
    return script.back();
}

Result<void> add_set(RewriteConf& conf, const Line& line) {
    auto name = variable_name(line.arg(0));
    if (!name) return name.take_error();
    auto index = Configuration::current().variables().define_plain(*name);
    if (!index) return index.take_error();
    auto value = ComplexValue::compile(line.arg(1), line);
    if (!value) return value.take_error();
    ScriptStep& step = add_step(conf, ScriptStep::set);
    step.variable = *index;
    step.value = std::move(*value);
    return {};
}

Result<void> add_break(RewriteConf& conf, const Line&) {
    add_step(conf, ScriptStep::break_);
    return {};
}

bool is_absolute(Slice text) {
    return text.starts_with("http://") || text.starts_with("https://") ||
           text.starts_with("$scheme");
}

Result<void> add_return(RewriteConf& conf, const Line& line) {
    auto made = std::make_unique<Return>();
    auto status = core::parse_number(line.arg(0));
    Slice text;
    if (status && *status <= 999) {
        made->status = int(*status);
        made->has_text = line.count() == 2;
        if (made->has_text) text = line.arg(1);
    } else if (!status && line.count() == 1 && is_absolute(line.arg(0))) {
        made->status = 302;
        made->has_text = true;
        text = line.arg(0);
    } else {
        return Error{"invalid return code " + quoted(line.arg(0))};
    }
    auto value = ComplexValue::compile(text, line);
    if (!value) return value.take_error();
    made->text = std::move(*value);
    // nginx takes an empty text of an error for none.
    made->has_text = made->has_text && !text.empty();
    add_step(conf, ScriptStep::return_).answer = std::move(made);
    return {};
}

Result<void> compile_regex(std::shared_ptr<const core::Regex>& regex,
                           std::vector<std::pair<int, int>>& captures, Slice pattern,
                           bool caseless) {
    auto compiled = core::Regex::compile(pattern, caseless ? uint32_t(core::Regex::caseless) : 0u);
    if (!compiled) return compiled.take_error();
    regex = std::move(*compiled);
    auto named = define_captures(*regex, Configuration::current().variables());
    if (!named) return named.take_error();
    captures = std::move(*named);
    return {};
}

Result<void> read_flag(Rewrite& to, Slice flag) {
    to.ends = true;
    if (flag == "last") return {};
    if (flag == "break") {
        to.breaks = true;
    } else if (flag == "redirect") {
        to.redirect = 302;
    } else if (flag == "permanent") {
        to.redirect = 301;
    } else {
        return conf::invalid_parameter(flag);
    }
    return {};
}

// Splits at the first '?' that is written as such, and compiles both halves.
Result<void> read_replacement(Rewrite& to, Slice text, const Line& line) {
    if (text.empty()) return Error{"empty replacement"};
    if (text.ends_with('?')) {
        text.remove_suffix(1);
        to.keep_args = false;
    }
    if (is_absolute(text)) {
        to.redirect = 302;
        to.ends = true;
    }
    size_t question = text.find('?');
    to.has_args = question != Slice::npos;
    auto path = ComplexValue::compile(text.substr(0, question), line);
    if (!path) return path.take_error();
    to.path = std::move(*path);
    if (!to.has_args) return {};
    auto args = ComplexValue::compile(text.substr(question + 1), line);
    if (!args) return args.take_error();
    to.args = std::move(*args);
    return {};
}

Result<void> add_rewrite(RewriteConf& conf, const Line& line) {
    auto made = std::make_unique<Rewrite>();
    auto done = compile_regex(made->regex, made->captures, line.arg(0), false);
    if (done) done = read_replacement(*made, line.arg(1), line);
    if (done && line.count() == 3) done = read_flag(*made, line.arg(2));
    if (!done) return done;
    add_step(conf, ScriptStep::rewrite).change = std::move(made);
    return {};
}

// ---- if ----

Error invalid_condition(Slice text) { return {"invalid condition " + quoted(text)}; }

// The words between the brackets; nothing when they are not there.
Result<std::vector<Slice>> condition_words(const Line& line) {
    std::vector<Slice> words(line.node.args.begin(), line.node.args.end());
    if (!words.front().starts_with('(')) return invalid_condition(words.front());
    words.front().remove_prefix(1);
    if (!words.back().ends_with(')')) return invalid_condition(words.back());
    words.back().remove_suffix(1);
    if (words.back().empty()) words.pop_back();
    if (!words.empty() && words.front().empty()) words.erase(words.begin());
    if (words.empty()) return invalid_condition(line.arg(0));
    return words;
}

Result<void> read_comparison(Condition& to, Slice sign, Slice other, const Line& line) {
    to.negated = sign.starts_with('!');
    Slice bare = to.negated ? sign.substr(1) : sign;
    if (bare == "=") {
        to.test = Test::equal;
        auto value = ComplexValue::compile(other, line);
        if (!value) return value.take_error();
        to.other = std::move(*value);
        return {};
    }
    if (bare == "~" || bare == "~*") {
        to.test = Test::matches;
        return compile_regex(to.regex, to.captures, other, bare == "~*");
    }
    return Error{"unexpected " + quoted(sign) + " in condition"};
}

bool read_file_test(Condition& to, Slice sign) {
    to.negated = sign.starts_with('!');
    Slice bare = to.negated ? sign.substr(1) : sign;
    if (bare.size() != 2 || bare[0] != '-') return false;
    switch (bare[1]) {
    case 'f': to.test = Test::file; return true;
    case 'd': to.test = Test::directory; return true;
    case 'e': to.test = Test::exists; return true;
    case 'x': to.test = Test::executable; return true;
    default: return false;
    }
}

Result<void> read_condition(Condition& to, const Line& line) {
    auto words = condition_words(line);
    if (!words) return words.take_error();
    Slice first = words->front();
    Slice subject = first;
    if (first.size() > 1 && first[0] == '$') {
        if (words->size() != 1 && words->size() != 3) return invalid_condition(first);
    } else {
        if (words->size() != 2 || !read_file_test(to, first)) return invalid_condition(first);
        subject = (*words)[1];
    }
    auto value = ComplexValue::compile(subject, line);
    if (!value) return value.take_error();
    to.subject = std::move(*value);
    if (words->size() == 3) return read_comparison(to, (*words)[1], (*words)[2], line);
    return {};
}

Result<void> add_if(RewriteConf& conf, const Line& line) {
    Configuration& configuration = Configuration::current();
    auto made = std::make_unique<Condition>();
    auto read = read_condition(*made, line);
    if (!read) return read;
    Location* outer = configuration.binding_location;
    auto block = std::make_unique<Location>();
    block->kind = Location::if_block;
    block->outer = outer;
    if (outer) block->name = outer->name;
    made->block = block.get();
    Condition& condition = *made;
    add_step(conf, ScriptStep::condition).when = std::move(made);
    auto& siblings = outer ? outer->nested : configuration.binding_server->root.nested;
    siblings.push_back(std::move(block));
    auto bound = bind_location(*condition.block, line,
                               outer ? conf::in_location_if : conf::in_server_if);
    condition.next = conf.script->size();
    return bound;
}

constexpr uint32_t everywhere =
    conf::in_server | conf::in_location | conf::in_server_if | conf::in_location_if;

constexpr conf::Directive directives[] = {
    {"set", everywhere, conf::takes(2), conf::call<add_set>},
    {"if", conf::in_server | conf::in_location, conf::takes_block(1, INT32_MAX),
     conf::call<add_if>},
    {"return", everywhere, conf::takes(1, 2), conf::call<add_return>},
    {"rewrite", everywhere, conf::takes(2, 3), conf::call<add_rewrite>},
    {"break", everywhere, conf::takes(0), conf::call<add_break>},
    {"rewrite_log", everywhere | conf::in_http, conf::takes_flag(),
     conf::field<&RewriteConf::log>},
    {"uninitialized_variable_warn", everywhere | conf::in_http, conf::takes_flag(),
     conf::field<&RewriteConf::warn_uninitialized>},
};

constexpr PhaseHandler handlers[] = {
    {Phase::server_rewrite, rank::normal, run_server_script, has_script},
    {Phase::rewrite, rank::normal, run_location_script, has_script},
};

const Module module_rewrite{
    .name = "http_rewrite",
    .conf = conf_of<RewriteConf>,
    .directives = directives,
    .handlers = handlers,
};
REGISTER_MODULE(module_rewrite);

const Module& rewrite_module() { return module_rewrite; }

}  // namespace

void own_script(conf::Binder& binder, conf::Level& level) {
    auto* conf = static_cast<RewriteConf*>(binder.own(level, module_rewrite.index));
    if (!(level.context() & (conf::in_server_if | conf::in_location_if))) return;
    conf->script = static_cast<RewriteConf*>(level.outer()->get(module_rewrite.index))->script;
}

Result<void> add_script_step(const Line& line, Slice name, ScriptFunction function,
                             const void* data) {
    int index = -1;
    if (name.data()) {
        auto bare = variable_name(name);
        if (!bare) return bare.take_error();
        auto defined = Configuration::current().variables().define_plain(*bare);
        if (!defined) return defined.take_error();
        index = *defined;
    }
    auto& conf = *static_cast<RewriteConf*>(
        line.binder.own(line.binder.current(), module_rewrite.index));
    ScriptStep& step = add_step(conf, ScriptStep::call);
    step.variable = index;
    step.function = function;
    step.data = data;
    return {};
}

bool warns_uninitialized(const Request& request) {
    return request.conf<RewriteConf>(module_rewrite).warn_uninitialized;
}

}  // namespace server
