// Setting response fields by name, whether they are kept in the list or in members of Response: for
// directives and scripts that name fields freely (more_set_headers, ngx.header).
#pragma once

#include "core/slice.h"
#include "server/http/headers.h"

namespace server {

struct Response;

// Replaces every field of that name; an empty value removes it, and the server's own value with it.
// Both slices must live as long as the request. False: a Content-Length that is no number.
bool set_response_field(Response& response, core::Slice name, core::Slice value);
// Removes every field whose name begins with `prefix` (any case).
void clear_response_fields(Response& response, core::Slice prefix);

}  // namespace server
