// The request line and the Host field of HTTP/1.
#pragma once

#include "core/slice.h"
#include "server/http/h1_head.h"

namespace server {

// "GET /a?b HTTP/1.1" into request.head, method, uri and args. RFC 9112 3.
HeadError parse_request_line(Request& request, core::Slice line);

// The Host rules of RFC 9112 3.2; sets request.head.host unless the target named one.
HeadError check_host(Request& request);

}  // namespace server
