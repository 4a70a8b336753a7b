// Built-in answers: redirects and error pages as nginx words them.
#pragma once

#include "core/slice.h"
#include "server/verdict.h"

namespace server {

class Request;

// Sends the built-in page for a status; response.location and error_status may be set. finished, or
// the rejection of a header filter.
Verdict special_response(Request& request, int status);

// "404 Not Found" for the status line; empty when the status has no standard text.
core::Slice status_text(int status);

// The name in Server fields and built-in pages.
core::Slice server_token(const Request& request);

}  // namespace server
