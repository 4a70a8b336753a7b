// Subrequests: requests that the server makes to itself on behalf of another one. They walk the
// same phases; only where their output goes differs.
#pragma once

#include "core/buffer.h"
#include "core/slice.h"
#include "server/http/headers.h"
#include "server/http/request.h"

namespace server {

// What a captured subrequest answered. Lives as long as the child.
struct CapturedResponse {
    int status = 0;
    core::Chain body;              // memory and file buffers
    bool truncated = false;
};

struct SubrequestOptions {
    core::Slice uri;               // decoded path; must live as long as the parent
    core::Slice args;
    Method method = Method::get;
    core::Slice method_name = "GET";
    bool inherit_body = true;      // sees the parent's body (when it has been read)
    bool background = false;       // the parent's response does not wait for it
};

// A subrequest whose response is collected (Lua's location.capture, auth_request, mirror). Not yet
// started: the caller may change headers, body and variables, then calls start_subrequest().
// `done` is called from the loop when it is finished; the child lives until the parent ends or
// destroy_subrequest(). Null when nesting is too deep (logged as nginx does).
using SubrequestDone = void (*)(Request& child, void* argument);
Request* create_capture(Request& parent, const SubrequestOptions& options, SubrequestDone done,
                        void* argument);
CapturedResponse& captured(Request& child);

// A subrequest whose output goes to the client at its place in the parent's output (echo_location,
// addition, SSI): what the parent sends after this call comes after it.
Request* create_postponed(Request& parent, const SubrequestOptions& options, SubrequestDone done,
                          void* argument);

// Takes a piece of the body of `request` (a main request with postponed children, or one of them)
// to its place in the order. Called by the filters.
Verdict submit_ordered(Request& request, core::Chain&& body);

// Runs it from the work queue, never inside this call.
void start_subrequest(Request& child);
// Ends it, of whatever kind and wherever it is, and frees its memory: cancels what it waits for,
// gives up its place in the parent's output. `done` is not called. A parent that only waited for it
// is finished here. From the loop, or from a destructor of the parent's.
void destroy_subrequest(Request& child);

}  // namespace server
