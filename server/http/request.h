// Request: one request and its response, from the parsed head to the log phase. Owned by its
// exchange (or, for a subrequest, by its parent), allocated in its own arena, destroyed as a whole.
//
// resume() is the only function that advances a request. Handlers and filters see a request through
// this header; the protocol behind it is the Exchange's business.
#pragma once

#include <cstdint>

#include "core/arena.h"
#include "core/buffer.h"
#include "core/list.h"
#include "core/log.h"
#include "core/reactor.h"
#include "server/config.h"
#include "server/http/body.h"
#include "server/http/core_conf.h"
#include "server/http/headers.h"
#include "server/module.h"
#include "server/verdict.h"

namespace server {

class Connection;
class Exchange;
class OutputOrder;

enum class Method : uint8_t {
    unknown, get, head, post, put, delete_, mkcol, copy, move, options, propfind, proppatch, lock,
    unlock, patch, trace, connect,
};
Method parse_method(core::Slice name);
core::Slice method_name(Method method);

// The groups of the last regular expression matched on the request's behalf ($1, $2…). The subject
// lives in the request's arena, so captures never dangle.
struct Captures {
    core::Slice subject;
    const uint32_t* offsets = nullptr;     // pairs
    int count = 0;                         // pairs, group 0 included

    core::Slice group(int n) const {       // empty when it took no part
        if (n >= count || offsets[2 * n] == UINT32_MAX) return {};
        return subject.substr(offsets[2 * n], offsets[2 * n + 1] - offsets[2 * n]);
    }
};

struct RequestHead {
    core::Slice line;              // "GET /a?b HTTP/1.1", without line end
    core::Slice method_name;
    core::Slice target;            // request target as received ($request_uri)
    core::Slice raw;               // the whole head as received, for raw_header and $request_length
    core::Slice host;              // from the target or Host, lower case, without port
    core::Slice host_port;         // "8080" from the Host field, empty when none
    int version = 11;              // 9, 10, 11, 20, 30
    int64_t content_length = -1;   // from the field; -1: none
};

struct Response {
    explicit Response(core::Arena& arena) : headers(arena), trailers(arena) {}

    uint16_t status = 0;
    core::Slice status_line;           // "418 I'm a teapot" when given instead of the usual text
    HeaderList headers;                // fields other than those below
    HeaderList trailers;
    core::Slice content_type;          // may carry its own charset parameter
    core::Slice charset;               // added as "; charset=…" when the type has none
    core::Slice default_type;          // what content_type was before filters, for *_types checks
    int64_t content_length = -1;       // -1: not known, sent chunked or until close
    int64_t last_modified = -1;        // seconds since 1970
    core::Slice etag;                  // with its quotes
    core::Slice location;
    bool allow_ranges = false;
    bool chunked = false;              // decided by the exchange when the head is sent
    bool date_given = false, server_given = false;   // fields set by a script replace ours
    bool disable_not_modified = false;
    bool content_type_cleared = false; // explicitly none: default_type does not apply

    bool is_type_of(core::Slice type) const;   // compares without parameters
};

class Request : public core::ListNode {
  public:
    // How far the output has come.
    enum class Output : uint8_t { none, header_filtering, open, ended, broken };

    static Request* create(Exchange& exchange, Connection& connection, VirtualServer& server);
    static Request* create_subrequest(Request& parent, Exchange& exchange);
    // Runs destructors and gives the memory back; only the owner calls it, only from the loop.
    static void destroy(Request* request);

    // ---- what was asked ----
    core::Arena arena;
    Connection& connection;
    Exchange* exchange;                          // null in a subrequest whose parent is ending
    Request* parent = nullptr;                   // null for a client's request
    Request* main;                               // the client's request (this, for itself)
    RequestHead head;
    HeaderList headers;                          // the request's fields
    HeaderList trailers;                         // of a chunked body; never merged into headers
    Method method = Method::unknown;
    core::Slice uri;                             // decoded and normalised path
    core::Slice args;                            // query string, undecoded, without '?'
    core::Slice extension;                       // of uri's last segment, without the dot
    RequestBody body;

    // ---- where it is ----
    VirtualServer* server;
    const Location* location;                    // never null: server->root until one is found
    const Step* steps = nullptr;                 // the array being walked
    uint16_t cursor = 0;
    Phase phase = Phase::post_read;
    uint16_t access_status = 0;                  // satisfy any: the refusal to fall back on
    uint8_t uri_changes_left = 11;               // the cycle limit
    uint8_t subrequest_depth_left = 50;
    bool uri_changed = false;                    // by a rewrite: find_config runs again
    bool internal = false;
    bool error_page = false;                     // being answered by an error_page redirect
    bool plain_uri = false;                      // uri is the raw target: nothing was decoded
    bool pipelined = false;                      // its head was there before it was asked for
    bool uri_behind_alias = false;               // try_files in a regex location with alias
    bool keep_alive = false;                     // after this response
    bool header_only = false;                    // HEAD, 204, 304: no body goes out
    bool plain_refusals = false;                 // a refusal is a status without any page
    bool end_withheld = false;                   // a filter kept the response's end: it will be cut
    bool filter_need_in_memory = false;          // some filter wants no file buffers
    bool done = false;                           // finish() ran
    bool logged = false;
    bool client_gone = false;                    // the connection broke while we worked
    bool limit_rate_set = false;

    // ---- what is answered ----
    Response response;
    Output output = Output::none;
    bool header_sent() const { return output >= Output::open; }
    uint32_t body_filters = 0;                   // bits of FilterSlots that want the body
    int64_t body_bytes_sent = 0, bytes_sent = 0; // header included
    int64_t limit_rate = 0, limit_rate_after = 0;
    uint16_t error_status = 0;                   // what an error page answers with; 0: its own

    // ---- time and logging ----
    int64_t start_ms = 0;                        // wall clock, of the first byte
    core::LogContext log;

    // ---- phases (phases.cpp) ----
    // Begins with the entry steps of `server`.
    void start();
    // Advances until a handler suspends or the response is complete. Who suspended calls it with
    // the answer, from the loop, never from inside the handler.
    void resume(Verdict verdict);
    // Another URI or named location; the caller then returns (or resumes with) Verdict::redirect().
    // Past the cycle limit they arrange for 500.
    Verdict internal_redirect(core::Slice uri, core::Slice args);
    Verdict named_location(core::Slice name);
    // After a rewrite: routes again in the post_rewrite phase.
    void set_uri(core::Slice uri);               // also finds the extension

    void use_location_log() {                    // the error_log of where it now is
        if (const auto& own = core().error_log) log.log = own.get();
    }

    // ---- output (filters.cpp) ----
    // Runs the header filters and sends the head. passed, or rejected. A filter that waits holds
    // back what is sent meanwhile; callers do not notice.
    Verdict send_header();
    // Takes a piece of the body through the filters. passed or rejected.
    Verdict send(core::Chain&& body);
    // The same for bytes that need not live on; `last`: the body ends behind them.
    Verdict send_text(core::Slice text, bool last);
    Verdict send_last() { return send_text({}, true); }
    // Head and a whole body at once; content_length is set. Returns finished (or rejected).
    Verdict respond(int status, core::Slice content_type, core::Slice body);
    // Nothing of the body may be queued beyond this: the producer should wait for on_drained.
    bool output_blocked() const;
    void want_body(FilterSlot slot) { body_filters |= 1u << int(slot); }
    void resume_header_filter(FilterSlot slot, Verdict verdict);
    void resume_body_filter(FilterSlot slot, core::Chain&& body, Verdict verdict);
    // For the last filter, which may hand on what it held back whenever it likes.
    void send_on(core::Chain&& body);
    // Calls `run` once, from the loop, when the client has taken what was sent so far (or is gone).
    struct Drain : core::ListNode {
        void (*run)(Request&, void* argument) = nullptr;
        void* argument = nullptr;
    };
    void on_drained(Drain& drain);
    void drained();                              // called by the exchange

    // ---- the end (finish.cpp) ----
    // Breaks the response off: no more output, the connection will not be reused.
    void cut(const char* reason = nullptr);
    // The client went away. Handlers that registered on_abort are told; others go on unseen.
    void client_aborted();
    // A log handler that suspended is through: the next one, then the request is over.
    void resume_log();
    // Called once when the client closes early; null to stop. For whoever waits in this request.
    void (*on_abort)(Request&, void*) = nullptr;
    void* on_abort_argument = nullptr;

    // ---- subrequests (subrequest.h) ----
    core::List<Request> children;

    // ---- state of modules ----
    // A module's own object of this request; null until set. Cleared by an internal redirect.
    template <class T>
    T* state(const Module& module) const { return static_cast<T*>(states_[module.state_index]); }
    void set_state(const Module& module, void* state) { states_[module.state_index] = state; }
    // The object, made in the arena on first use.
    template <class T>
    T& need_state(const Module& module) {
        void*& slot = states_[module.state_index];
        if (!slot) slot = arena.make<T>();
        return *static_cast<T*>(slot);
    }
    void clear_states();

    template <class Conf>
    const Conf& conf(const Module& module) const { return location->conf<Conf>(module); }
    const CoreConf& core() const { return *location->core; }

    // ---- variables (variables.h) ----
    struct VariableSlot { core::Slice text; enum : uint8_t { unset, found, missing } state; };
    VariableSlot* variables = nullptr;           // one per indexed variable; made on first use
    Captures captures;

    // What the order of postponed subrequests lets through: enters the filters behind them.
    Verdict send_ordered(core::Chain&& body);
    OutputOrder* order = nullptr;                // set once the request has postponed children
    uint32_t running_children = 0;               // that the end of this request waits for

  private:
    Request(core::Arena& memory, Exchange& exchange, Connection& connection, VirtualServer& server);
    ~Request();

    friend Verdict special_response(Request&, int status);
    friend void child_ended(Request& parent);
    friend class OutputOrder;
    Verdict step(Verdict verdict);
    Verdict satisfied(Verdict verdict);
    Verdict reject(int status);
    Verdict refuse_plainly(int status);
    void finish();
    void complete();
    void restart(const Step* first, uint16_t at);
    Verdict run_header_filters(size_t from);
    Verdict run_body_filters(int from, core::Chain& body);
    Verdict deliver(core::Chain& body);
    bool unfiltered(size_t bytes) const;
    Verdict release_held();
    bool needs_memory() const { return filter_need_in_memory && body_filters != 0; }

    void** states_;
    uint8_t header_filter_at_ = 0;
    uint8_t log_cursor_ = 0;
    enum class Filtering : uint8_t { running, header_waits, body_waits } filtering_ =
        Filtering::running;
    bool end_queued_ = false;                    // the last buffer was given to send()
    bool finishing_ = false;                     // finish() waits for filters, children or output
    bool cut_ = false;
    bool resuming_ = false;
    core::Chain held_;                           // body pieces waiting behind a suspended filter
    core::List<Drain> drains_;
    core::Deferred drain_call_;
};

}  // namespace server
