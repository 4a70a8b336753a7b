// memc_pass: memcached by HTTP, with all of its commands: $memc_cmd, $memc_key, $memc_value,
// $memc_flags and $memc_exptime say what is asked for; without a command the method does. The
// answer's line is the response's body. How a server is chosen and reached is upstream/session's.
#include <algorithm>

#include "conf/binder.h"
#include "core/text.h"
#include "server/http/core_conf.h"
#include "server/http/escape.h"
#include "server/http/request.h"
#include "server/http/variables.h"
#include "server/upstream/session.h"
#include "server/upstream/settings.h"
#include "server/upstream/target.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Slice;

// What a command sends behind its name, and how its answer looks.
enum class Kind : uint8_t { get, store, count, remove, flush, stats, version, verbosity };

struct Command {
    Slice name;
    Kind kind;
};
constexpr Command commands[] = {
    {"get", Kind::get},         {"set", Kind::store},        {"add", Kind::store},
    {"replace", Kind::store},   {"append", Kind::store},     {"prepend", Kind::store},
    {"incr", Kind::count},      {"decr", Kind::count},       {"delete", Kind::remove},
    {"flush_all", Kind::flush}, {"stats", Kind::stats},      {"version", Kind::version},
    {"verbosity", Kind::verbosity},
};

const Command* find_command(Slice name) {
    for (const Command& command : commands) {
        if (command.name == name) return &command;
    }
    return nullptr;
}

const Command* command_of_method(Method method) {
    switch (method) {
    case Method::get:
    case Method::head: return find_command("get");
    case Method::post: return find_command("add");
    case Method::put: return find_command("set");
    case Method::delete_: return find_command("delete");
    default: return nullptr;
    }
}

struct Conf : UpstreamSettings {
    Conf() { buffering.value = false; }

    ComplexValue pass;
    bool is_set = false;
    uint32_t allowed = ~0u;            // bits of `commands`
    bool allowed_set = false;
    int cmd = -1, key = -1, value = -1, flags = -1, exptime = -1;   // variables
};

extern const Module module_memc;

constexpr Slice line_end = "\r\n";
constexpr Slice value_end = "\r\nEND\r\n";

class MemcRun final : public UpstreamProtocol {
  public:
    MemcRun(Request& of, const Conf& with, const Command& what)
        : request_(of), conf_(with), command_(what), session_(of, with, *this),
          no_fields_(of.arena) {}

    // Takes the arguments together; how the request is refused when one is missing or wrong.
    Verdict prepare();
    Verdict start();

    bool make_request(core::Chain& to) override;
    void frame_body(core::Chain&, bool) override {}
    void recreate() override {}
    void reset() override;
    Head read_head(Slice& bytes) override;
    int status() const override { return status_; }
    bool wants_tunnel() const override { return false; }
    Verdict accept_head() override;
    Slice next_body(Slice& bytes) override;
    Body body_state() const override;
    Body body_closed() override;
    void body_complete() override {}
    bool keeps_connection() const override { return !bad_end_; }

  private:
    static void body_read(Request& request, void* self, Verdict verdict);
    bool number_argument(int index, const char* name, Slice otherwise, Slice& to);
    Verdict begin();
    bool ends_by_line() const { return command_.kind == Kind::stats && status_ == 200; }
    Head read_line(Slice line);
    Head read_value(Slice line, Slice rest);
    Head bad(Slice line);
    Slice take(Slice& bytes, size_t most);

    Request& request_;
    const Conf& conf_;
    const Command& command_;
    UpstreamSession session_;
    HeaderList no_fields_;
    Slice key_, value_, flags_, exptime_;
    bool bad_end_ = false;
    int status_ = 0;
    int64_t left_ = 0;             // of the value, or of the answer's line
    size_t end_seen_ = 0;          // of what follows a value
    std::string tail_;             // stats: how what was read ends
};

// An unsigned number from a variable, as text.
bool MemcRun::number_argument(int index, const char* name, Slice otherwise, Slice& to) {
    Value given = variable(request_, index);
    to = given.found && !given.text.empty() ? given.text : otherwise;
    if (to.empty() || core::parse_number(to)) return true;
    LOG(request_.log, error, 0, "variable \"$%s\" takes invalid value: %.*s", name, int(to.size()),
        to.data());
    return false;
}

Verdict MemcRun::prepare() {
    Kind kind = command_.kind;
    Value key = variable(request_, conf_.key), value = variable(request_, conf_.value);
    if (key.found) key_ = escape(request_.arena, key.text, Escape::memcached);
    bool needs_key = kind <= Kind::remove;
    if (needs_key && key_.empty()) {
        LOG(request_.log, error, 0, "the \"$memc_key\" variable is not set");
        return Verdict::reject(400);
    }
    bool stores = kind == Kind::store;
    bool takes_time = stores || kind == Kind::remove || kind == Kind::flush;
    Slice zero = stores ? Slice("0") : Slice();
    if ((takes_time && !number_argument(conf_.exptime, "memc_exptime", zero, exptime_)) ||
        (stores && !number_argument(conf_.flags, "memc_flags", zero, flags_))) {
        return Verdict::reject(400);
    }
    if (value.found) value_ = value.text;
    if (kind != Kind::count && kind != Kind::verbosity) return Verdict::pass();
    if (value_.empty()) {
        LOG(request_.log, error, 0, "the \"$memc_value\" variable is required for command \"%.*s\"",
            int(command_.name.size()), command_.name.data());
        return Verdict::reject(400);
    }
    return number_argument(conf_.value, "memc_value", {}, value_) ? Verdict::pass()
                                                                  : Verdict::reject(400);
}

Verdict MemcRun::start() {
    bool has_value = variable(request_, conf_.value).found;
    if (command_.kind != Kind::store || has_value) {
        if (&request_ == request_.main) request_.body.discard(request_);
        return begin();
    }
    Verdict read = request_.body.read(request_, {}, body_read, this);
    if (!read.is(Verdict::passed)) return read;
    value_ = request_.body.text(request_);
    return begin();
}

void MemcRun::body_read(Request& request, void* self, Verdict verdict) {
    auto& run = *static_cast<MemcRun*>(self);
    if (verdict.is(Verdict::passed)) {
        run.value_ = request.body.text(request);
        verdict = run.begin();
    }
    if (!verdict.is(Verdict::suspended)) request.resume(verdict);
}

Verdict MemcRun::begin() {
    session_.describe("memcached://", {});
    return start_at(session_, conf_.pass.evaluate(request_));
}

// ---- asking ----

bool MemcRun::make_request(core::Chain& to) {
    char digits[24];
    to.add_copy(command_.name);
    auto add = [&](Slice argument) {
        if (argument.empty()) return;
        to.add_copy(" ");
        to.add_copy(argument);
    };
    bool stores = command_.kind == Kind::store;
    bool has_key = command_.kind <= Kind::remove || command_.kind == Kind::stats;
    if (has_key) add(key_);
    if (stores) add(flags_);
    add(exptime_);
    if (stores) add(core::format_number(int64_t(value_.size()), digits));
    else if (command_.kind == Kind::count || command_.kind == Kind::verbosity) add(value_);
    to.add_copy(line_end);
    if (!stores) return true;
    if (!value_.empty()) to.add(value_);
    to.add_copy(line_end);
    return true;
}

void MemcRun::reset() {
    bad_end_ = false;
    status_ = 0;
    left_ = 0;
    end_seen_ = value_end.size();
    tail_.clear();
    UpstreamRecord& record = upstream_record(request_);
    record.fields = &no_fields_;
    record.trailers = &no_fields_;
}

// ---- the answer ----

MemcRun::Head MemcRun::bad(Slice line) {
    LOG(session_.log(), error, 0,
        "memcached sent invalid response for command \"%.*s\": \"%.*s\"",
        int(command_.name.size()), command_.name.data(), int(line.size()), line.data());
    return Head::invalid;
}

// "VALUE KEY FLAGS LENGTH"; `rest` begins behind the first word.
MemcRun::Head MemcRun::read_value(Slice line, Slice rest) {
    if (!rest.starts_with(key_)) return bad(line);
    rest.remove_prefix(key_.size());
    size_t space = rest.find(' ', 1);
    if (!rest.starts_with(' ') || space == Slice::npos) return bad(line);
    Slice flags = rest.substr(1, space - 1);
    auto length = core::parse_number(rest.substr(space + 1));
    if (!core::parse_number(flags) || !length) return bad(line);
    set_variable(request_, conf_.flags, request_.arena.copy(flags));
    status_ = 200;
    left_ = int64_t(*length);
    end_seen_ = 0;
    return Head::complete;
}

// The status that a line means. Lines of commands other than get stay: they are the body.
MemcRun::Head MemcRun::read_line(Slice line) {
    bool failed = line == "ERROR" || line.starts_with("CLIENT_ERROR ") ||
                  line.starts_with("SERVER_ERROR ");
    Kind kind = command_.kind;
    if (kind == Kind::get && !failed) {
        constexpr Slice value = "VALUE ";
        if (line.starts_with(value)) return read_value(line, line.substr(value.size()));
        if (line != "END") return bad(line);
        status_ = 404;
        return Head::complete;
    }
    bool counted = kind == Kind::count && !line.empty() && line[0] >= '0' && line[0] <= '9';
    status_ = failed ? 502 : line == "NOT_FOUND" ? 404 : counted || line == "STORED" ? 201 : 200;
    if (kind != Kind::stats || failed) left_ = int64_t(line.size() + line_end.size());
    return Head::complete;
}

MemcRun::Head MemcRun::read_head(Slice& bytes) {
    size_t end = bytes.find('\n');
    if (end == Slice::npos) return Head::incomplete;
    if (end == 0 || bytes[end - 1] != '\r') return bad(bytes.substr(0, end));
    Head head = read_line(bytes.substr(0, end - 1));
    if (head == Head::complete && command_.kind == Kind::get && status_ != 502) {
        bytes.remove_prefix(end + 1);
    }
    return head;
}

Verdict MemcRun::accept_head() {
    if (status_ == 404) return Verdict::reject(404);
    Response& response = request_.response;
    response.status = uint16_t(status_);
    response.content_length = ends_by_line() ? -1 : left_;
    response.content_type = mime_type(request_);
    return Verdict::pass();
}

Slice MemcRun::take(Slice& bytes, size_t most) {
    Slice run = bytes.substr(0, most);
    bytes.remove_prefix(run.size());
    return run;
}

Slice MemcRun::next_body(Slice& bytes) {
    if (ends_by_line()) {
        Slice run = take(bytes, bytes.size());
        tail_.append(run.substr(run.size() - std::min(run.size(), value_end.size())));
        if (tail_.size() > 2 * value_end.size()) tail_.erase(0, tail_.size() - value_end.size());
        return run;
    }
    if (left_ > 0) {
        Slice run = take(bytes, size_t(std::min<int64_t>(left_, int64_t(bytes.size()))));
        left_ -= int64_t(run.size());
        return run;
    }
    Slice wanted = value_end.substr(end_seen_);
    Slice got = take(bytes, wanted.size());
    if (!wanted.starts_with(got) || (wanted.empty() && !bytes.empty())) {
        LOG(session_.log(), error, 0, "memcached sent invalid trailer");
        bad_end_ = true;
        end_seen_ = value_end.size();
        bytes = {};
        return {};
    }
    end_seen_ += got.size();
    return {};
}

MemcRun::Body MemcRun::body_state() const {
    if (ends_by_line()) {
        bool over = tail_ == "END\r\n" || tail_.ends_with(value_end);
        return over ? Body::complete : Body::more;
    }
    return left_ == 0 && end_seen_ == value_end.size() ? Body::complete : Body::more;
}

MemcRun::Body MemcRun::body_closed() {
    bad_end_ = true;
    bool cut = left_ > 0 || (ends_by_line() && body_state() == Body::more);
    return cut ? Body::bad : Body::complete;
}

// ---- the handler ----

Verdict handle(Request& request) {
    const Conf& conf = request.conf<Conf>(module_memc);
    Value name = variable(request, conf.cmd);
    bool named = name.found && !name.text.empty();
    const Command* command = named ? find_command(name.text) : command_of_method(request.method);
    if (!command) {
        Slice what = named ? name.text : request.head.method_name;
        LOG(request.log, error, 0,
            named ? "ngx_memc: unknown $memc_cmd \"%.*s\""
                  : "ngx_memc: $memc_cmd variable not found for HTTP %.*s requests",
            int(what.size()), what.data());
        return Verdict::reject(400);
    }
    if (!(conf.allowed >> (command - commands) & 1)) {
        LOG(request.log, error, 0, "ngx_memc: memcached command \"%.*s\" not allowed",
            int(command->name.size()), command->name.data());
        return Verdict::reject(403);
    }
    auto* run = request.arena.make<MemcRun>(request, conf, *command);
    Verdict prepared = run->prepare();
    return prepared.is(Verdict::passed) ? run->start() : prepared;
}

// ---- configuration ----

Result<void> set_pass(Conf& conf, const Line& line) {
    if (conf.is_set) return conf::Error{"is duplicate"};
    auto pass = ComplexValue::compile(line.arg(0), line);
    if (!pass) return pass.take_error();
    conf.pass = std::move(*pass);
    conf.is_set = true;
    VariableTable& table = Configuration::current().variables();
    conf.cmd = table.use("memc_cmd", line.node.place);
    conf.key = table.use("memc_key", line.node.place);
    conf.value = table.use("memc_value", line.node.place);
    conf.flags = table.use("memc_flags", line.node.place);
    conf.exptime = table.use("memc_exptime", line.node.place);
    return set_content_handler(line, handle);
}

Result<void> set_allowed(Conf& conf, const Line& line) {
    if (conf.allowed_set) return conf::Error{"is duplicate"};
    conf.allowed_set = true;
    conf.allowed = 0;
    for (const std::string& name : line.node.args) {
        const Command* command = find_command(name);
        if (!command) return conf::Error{"Unknown memcached command: " + name};
        conf.allowed |= 1u << (command - commands);
    }
    return {};
}

Result<void> set_next(Conf& conf, const Line& line) {
    return read_next_upstream(conf.next_upstream, line);
}

Result<void> merge(Conf& conf, const Conf* outer, conf::Binder&) {
    if (!outer) return {};
    conf.next_upstream.inherit(outer->next_upstream);
    if (!conf.allowed_set) {
        conf.allowed = outer->allowed;
        conf.allowed_set = outer->allowed_set;
    }
    if (conf.is_set) return {};
    conf.pass = outer->pass;
    conf.cmd = outer->cmd;
    conf.key = outer->key;
    conf.value = outer->value;
    conf.flags = outer->flags;
    conf.exptime = outer->exptime;
    return {};
}

using conf::field;
constexpr uint32_t any = conf::in_any_http;
constexpr conf::Directive directives[] = {
    {"memc_pass", conf::in_location | conf::in_location_if, conf::takes(1), conf::call<set_pass>},
    {"memc_cmds_allowed", any, conf::takes_at_least(1), conf::call<set_allowed>},
    {"memc_connect_timeout", any, conf::takes(1), field<&Conf::connect_timeout>},
    {"memc_send_timeout", any, conf::takes(1), field<&Conf::send_timeout>},
    {"memc_read_timeout", any, conf::takes(1), field<&Conf::read_timeout>},
    {"memc_buffer_size", any, conf::takes(1), field<&Conf::buffer_size>},
    {"memc_next_upstream", any, conf::takes_at_least(1), conf::call<set_next>},
};

Value not_given(Request&, Slice, uintptr_t) { return Value::none(); }
constexpr Variable variables[] = {
    {"memc_cmd", not_given, Variable::changeable},
    {"memc_key", not_given, Variable::changeable},
    {"memc_value", not_given, Variable::changeable},
    {"memc_flags", not_given, Variable::changeable},
    {"memc_exptime", not_given, Variable::changeable},
};

constinit const Module module_memc{
    .name = "http_memc",
    .conf = conf_with_merge<Conf, merge>,
    .directives = directives,
    .variables = variables,
};
REGISTER_MODULE(module_memc);

}  // namespace

}  // namespace server
