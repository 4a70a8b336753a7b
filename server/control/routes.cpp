// What the paths of the control socket mean: control.md lists them.
#include <simdjson.h>
#include <signal.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/json_writer.h"
#include "core/text.h"
#include "server/config.h"
#include "server/control/control.h"
#include "server/features.h"

namespace server {

namespace {

namespace dom = simdjson::dom;

constexpr core::Slice root = "/v1/";
constexpr size_t changes_max = 10000;

// The order to a process is a signal, as from a terminal.
int signal_of(core::Slice order) {
    if (order == "reload") return SIGHUP;
    if (order == "reopen") return SIGUSR1;
    if (order == "quit") return SIGQUIT;
    if (order == "stop") return SIGTERM;
    return 0;
}

ControlError no_such_path() { return not_found("there is nothing at this path"); }

ControlError bad_json(const char* why) {
    return {400, "bad_json", std::string("the body is no valid JSON: ") + why};
}

// "\"12\"", W/"12" or 12; nothing: no number.
std::optional<uint64_t> version_named(core::Slice if_match) {
    if_match = core::trim(if_match);
    if (if_match.starts_with("W/")) if_match.remove_prefix(2);
    bool quoted = if_match.size() > 1 && if_match.front() == '"' && if_match.back() == '"';
    if (quoted) if_match = if_match.substr(1, if_match.size() - 2);
    return core::parse_number(if_match);
}

// A member that must be text when it is there.
bool text_member(dom::object from, const char* name, std::string& to) {
    std::string_view text;
    auto error = from[name].get(text);
    if (!error) to = text;
    return !error || error == simdjson::NO_SUCH_FIELD;
}

// "42" or 42.
bool version_member(dom::object from, std::string& to) {
    uint64_t number;
    if (from["if_match"].get(number)) return text_member(from, "if_match", to);
    to = std::to_string(number);
    return true;
}

}  // namespace

ControlAnswer control_error(const ControlError& error, int worker) {
    core::JsonWriter json;
    json.begin_object().key("error").begin_object();
    json.member("code", error.code).member("message", error.what);
    if (worker >= 0) json.member("worker", worker);
    json.end_object().end_object();
    return {error.status, json.take(), 0, error.status == 405 ? "GET, PUT, POST, PATCH, DELETE"
                                                              : nullptr};
}

void Control::receive(const std::shared_ptr<ControlConnection>& from,
                      const ControlRequest& request) {
    core::Slice path = request.path;
    auto segments = path.starts_with(root) ? split_path(path.substr(root.size())) : std::nullopt;
    if (!segments || segments->empty()) return from->answer(control_error(no_such_path()));
    if (request.method == "GET" || request.method == "HEAD") {
        return from->answer(show(*segments));
    }
    const std::string& first = (*segments)[0];
    if (segments->size() == 1 && signal_of(first)) {
        if (request.method != "POST") return from->answer(control_error(wrong_method()));
        return from->answer(order(first));
    }
    enqueue(from, request);
}

ControlAnswer Control::order(const std::string& what) {
    core::JsonWriter json;
    json.begin_object().member("order", what).member("reloads", reloads_).end_object();
    ::kill(::getpid(), signal_of(what));
    return {202, json.take()};
}

ControlAnswer Control::show(const std::vector<std::string>& path) {
    core::JsonWriter json;
    const std::string& first = path[0];
    if (path.size() == 1 && first == "ping") {
        return {200, "{\"pong\":true}"};
    }
    if (path.size() == 1 && first == "version") {
        json.begin_object().member("version", state_.version()).end_object();
        return {200, json.take(), state_.version()};
    }
    if (path.size() == 1 && first == "status") {
        show_status(json);
        return {200, json.take(), state_.version()};
    }
    if (path.size() == 1 && first == "changes") {
        show_changes(json);
        return {200, json.take(), state_.version()};
    }
    if (signal_of(first)) return control_error(wrong_method());
    ControlResource* resource = find_control_resource(first);
    if (!resource) return control_error(no_such_path());
    std::vector<std::string> rest(path.begin() + 1, path.end());
    if (auto wrong = resource->show(rest, state_, json)) return control_error(*wrong);
    uint64_t version = state_.version();
    if (!rest.empty()) version = state_.version_of(first + "/" + resource->object_of(rest));
    return {200, json.take(), version};
}

void Control::show_status(core::JsonWriter& json) const {
    core::Clock::update();
    json.begin_object().member("server", "resty-server/" RESTY_VERSION);
    json.member("pid", int(::getpid())).member("version", state_.version());
    json.member("configuration", configuration_->options().path);
    json.member("prefix", configuration_->options().prefix);
    json.member("uptime", core::Clock::wall_ms() / 1000 - started_s_);
    json.member("settled", settled_).member("reloads", reloads_).key("reload_error");
    if (reload_error_.empty()) json.null();
    else json.value(reload_error_);
    json.key("state");
    if (state_path_.empty()) json.null();
    else json.value(state_path_);
    json.member("changed", state_.count()).key("resources").begin_array();
    for (const ControlResource* resource : control_resources()) json.value(resource->name());
    json.end_array().key("workers").begin_array();
    for (const Follower& follower : followers_) {
        if (follower.closed) continue;
        json.begin_object().member("id", follower.id);
        json.member("pid", int(follower.pid)).end_object();
    }
    json.end_array().end_object();
}

// What differs from the configuration; not to what, which may be secret.
void Control::show_changes(core::JsonWriter& json) const {
    json.begin_object().member("version", state_.version()).key("changes").begin_array();
    for (const ControlItem& item : state_.items()) {
        json.begin_object().member("resource", item.resource).member("key", item.key);
        json.member("version", state_.version_of(ControlState::object_of(item))).end_object();
    }
    json.end_array().end_object();
}

ControlOutcome Control::check_version(core::Slice if_match, core::Slice path) const {
    if (if_match.empty() || core::trim(if_match) == "*") return {};
    auto named = version_named(if_match);
    if (!named) {
        return ControlError{400, "bad_request", "If-Match is no version: \"NUMBER\" or *"};
    }
    uint64_t version = state_.version();
    auto segments = split_path(path.substr(root.size()));
    ControlResource* resource = segments && segments->size() > 1
                                    ? find_control_resource((*segments)[0]) : nullptr;
    if (resource) {
        std::vector<std::string> rest(segments->begin() + 1, segments->end());
        version = state_.version_of(segments->front() + "/" + resource->object_of(rest));
    }
    if (*named == version) return {};
    return ControlError{412, "stale", core::format("version %llu was named, it is %llu by now",
                                                   static_cast<unsigned long long>(*named),
                                                   static_cast<unsigned long long>(version))};
}

ControlOutcome Control::plan(const ControlRequest& request, ControlDraft::Pending& pending,
                             bool& dry_run) {
    dry_run = request.flag("dry_run");
    if (auto stale = check_version(request.if_match, request.path)) return stale;
    if (request.path == "/v1/changes") {
        if (request.method == "POST") return plan_many(request.body, pending, dry_run);
        if (request.method != "DELETE") return wrong_method();
        for (const ControlItem& item : state_.items()) {
            pending[{item.resource, item.key}] = std::nullopt;
        }
        return {};
    }
    return plan_one(request.method, request.path, request.body, pending);
}

ControlOutcome Control::plan_one(core::Slice method, core::Slice path, std::string body,
                                 ControlDraft::Pending& pending) {
    auto segments = path.starts_with(root) ? split_path(path.substr(root.size())) : std::nullopt;
    if (!segments || segments->empty()) return no_such_path();
    ControlResource* resource = find_control_resource(segments->front());
    if (!resource) return no_such_path();
    bool known = method == "PUT" || method == "POST" || method == "PATCH" || method == "DELETE";
    if (!known) return wrong_method();
    if (!body.empty()) {
        dom::parser parser;
        dom::element document;
        if (auto error = parser.parse(body).get(document)) {
            return bad_json(simdjson::error_message(error));
        }
        body = simdjson::minify(document);
    }
    segments->erase(segments->begin());
    ControlDraft draft(state_, resource->name(), pending);
    return resource->plan({method, std::move(*segments), std::move(body)}, draft);
}

// {"changes":[{"method":"PUT","path":"/v1/…","body":…,"if_match":3}],"dry_run":false}
ControlOutcome Control::plan_many(const std::string& body, ControlDraft::Pending& pending,
                                  bool& dry_run) {
    dom::parser parser;
    dom::element document;
    if (auto error = parser.parse(body).get(document)) {
        return bad_json(simdjson::error_message(error));
    }
    dom::array changes;
    if (document["changes"].get(changes)) {
        return ControlError{400, "bad_request", "\"changes\", an array, is missing"};
    }
    if (bool asked; !document["dry_run"].get(asked)) dry_run |= asked;
    if (changes.size() > changes_max) {
        return ControlError{413, "too_large", "no more than 10000 changes at once"};
    }
    size_t number = 0;
    for (dom::element change : changes) {
        dom::object fields;
        std::string method = "PUT", path, if_match;
        bool good = !change.get(fields) && text_member(fields, "method", method) &&
                    text_member(fields, "path", path) && version_member(fields, if_match);
        if (!good || path.empty()) {
            return ControlError{400, "bad_request", core::format(
                "change %zu: \"method\", \"path\" or \"if_match\" is wrong", number)};
        }
        dom::element inner;
        std::string text;
        if (!fields["body"].get(inner)) text = simdjson::minify(inner);
        ControlOutcome wrong;
        if (path.starts_with(root)) wrong = check_version(if_match, path);
        else wrong = no_such_path();
        if (!wrong) wrong = plan_one(method, path, std::move(text), pending);
        if (wrong) {
            wrong->what = core::format("change %zu: ", number) + wrong->what;
            return wrong;
        }
        ++number;
    }
    return {};
}

}  // namespace server
