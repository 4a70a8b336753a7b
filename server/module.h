// Module: the only seam features plug into. A module declares in one file what it adds: directives,
// variables, phase handlers, filters, hooks. It registers itself with REGISTER_MODULE; nothing else
// in the tree is touched. Order never depends on link order: handlers are sorted by (phase, rank,
// name), filters by their slot.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "conf/directive.h"
#include "core/slice.h"
#include "server/verdict.h"

namespace core {
class Chain;
}

namespace server {

class Configuration;
class Request;
class Worker;

enum class Phase : uint8_t {
    post_read,
    server_rewrite,
    find_config,
    rewrite,
    post_rewrite,
    preaccess,
    access,
    post_access,
    precontent,
    content,
    log,
};
constexpr int phase_count = 11;

// The order of handlers within a phase; smaller runs earlier.
namespace rank {
constexpr int first = 0;
constexpr int early = 100;
constexpr int normal = 200;
constexpr int late = 300;
constexpr int script = 400;        // Lua runs after the modules of its phase
constexpr int last = 1000;
}  // namespace rank

struct PhaseHandler {
    Phase phase;
    int rank;
    Verdict (*run)(Request&);
    // Is it of use in a location with this conf? Handlers that are not are left out of the
    // location's steps. Null: always.
    bool (*active)(const void* conf) = nullptr;
};

// The filters, in the order in which they run on a response (header and body alike).
enum class FilterSlot : uint8_t {
    not_modified,
    range_body,
    headers_more,
    lua,
    echo,
    headers,        // add_header, expires
    userid,
    gunzip,
    addition,
    sub,
    charset,
    gzip,
    range_header,
    trailers,       // add_trailer: the fields behind the body
    file_read,      // directio, aio, sendfile off: files are read here rather than by the kernel
    count,
};

struct Filter {
    FilterSlot slot;
    // Sees the response's headers once, before they are sent: passed, suspended (call
    // Request::resume_header_filter() later), or rejected with a status. May be null.
    Verdict (*header)(Request&);
    // Transforms a piece of the body in place: `chain` comes in and what is in it afterwards goes
    // on. Runs only for requests where someone called request.want_body(slot). Returns passed;
    // suspended (the filter took the chain's contents and calls Request::resume_body_filter()
    // later); or rejected (the response is cut off). May be null.
    Verdict (*body)(Request&, core::Chain& chain);
    // Is it of use in a location with this conf? Null: always.
    bool (*active)(const void* conf) = nullptr;
};

// The value of a variable. Not found is not the same as empty: maps and log formats care.
struct Value {
    core::Slice text;
    bool found = false;

    Value() = default;
    Value(core::Slice t) : text(t), found(true) {}
    static Value none() { return {}; }
};

struct Variable {
    enum Flag : uint8_t {
        cacheable = 0,
        volatile_ = 1,        // asked for anew each time
        changeable = 2,       // `set` may replace it
        prefix = 4,           // the name is a prefix: "arg_" serves $arg_anything
        weak = 8,             // another definition may take its place
    };

    const char* name;
    // For a prefix variable `rest` is the name behind the prefix, lower-cased; else empty.
    // Returned text must live as long as the request.
    Value (*get)(Request&, core::Slice rest, uintptr_t data);
    uint8_t flags = cacheable;
    uintptr_t data = 0;
    // Called by `set $name` (and Lua's ngx.var) for built-in variables that do something when set.
    void (*set)(Request&, core::Slice value, uintptr_t data) = nullptr;
};

template <class Conf>
void* create_conf() { return new Conf; }
template <class Conf>
void destroy_conf(void* conf) { delete static_cast<Conf*>(conf); }

struct ConfType {
    void* (*create)() = nullptr;
    void (*destroy)(void*) = nullptr;
    // After inheritance; `outer` is null at the outermost level.
    conf::Result<void> (*merge)(void* conf, const void* outer, conf::Binder&) = nullptr;
};
template <class Conf>
inline constexpr ConfType conf_of{create_conf<Conf>, destroy_conf<Conf>, nullptr};
// merge: Result<void>(Conf&, const Conf* outer, conf::Binder&)
template <class Conf, auto merge_function>
inline constexpr ConfType conf_with_merge{
    create_conf<Conf>, destroy_conf<Conf>,
    [](void* conf, const void* outer, conf::Binder& binder) -> conf::Result<void> {
        return merge_function(*static_cast<Conf*>(conf), static_cast<const Conf*>(outer), binder);
    }};

struct Module {
    const char* name;
    ConfType conf = {};
    std::span<const conf::Directive> directives = {};
    std::span<const Variable> variables = {};
    std::span<const PhaseHandler> handlers = {};
    std::span<const Filter> filters = {};
    // Before the configuration file is read (reserve names, reset counters).
    void (*begin)(Configuration&) = nullptr;
    // Once the configuration is bound and inherited; errors end the load.
    conf::Result<void> (*prepare)(Configuration&) = nullptr;
    // In the master after prepare, before workers are forked (init_by_lua).
    conf::Result<void> (*init_process)(Configuration&) = nullptr;
    // In each worker, when its loop is open and before it accepts; and when it leaves.
    conf::Result<void> (*init_worker)(Worker&) = nullptr;
    void (*exit_worker)(Worker&) = nullptr;
    // In a worker that begins to leave gracefully, its connections still at work.
    void (*worker_leaves)(Worker&) = nullptr;
    // USR1, in the master and in each worker: log files of its own are opened anew. `owner` is the
    // workers' user in the master, unsigned(-1) elsewhere.
    void (*reopen_logs)(Configuration&, unsigned owner) = nullptr;
    // Does it keep state per request (Request::state)? Then it gets a slot there.
    bool has_request_state = false;
    // Does that state stay when the request is redirected internally?
    bool state_outlives_redirects = false;

    // Set by registration.
    mutable uint16_t index = 0;
    mutable uint16_t state_index = 0;
};

// All registered modules, sorted by name; indexes are assigned.
const std::vector<const Module*>& modules();
size_t request_state_count();

struct ModuleRegistration {
    explicit ModuleRegistration(const Module& module);
};
#define REGISTER_MODULE(module) \
    static const ::server::ModuleRegistration register_##module { module }

}  // namespace server
