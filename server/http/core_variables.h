// The variables of the http core ($uri, $args, $http_…, $remote_addr, …). The table is part of the
// core module; the helpers are for modules that read requests the same way.
#pragma once

#include <span>

#include "core/slice.h"
#include "server/http/headers.h"
#include "server/module.h"

namespace server {

class Request;

extern const std::span<const Variable> core_variables;

// The value of a cookie or of an argument, as $cookie_name and $arg_name see them (names in any
// case). Null data: absent.
core::Slice cookie_value(const HeaderList& headers, core::Slice name);
core::Slice argument_value(core::Slice args, core::Slice name);
// A header by its variable's name: "x_forwarded_for". Several fields are joined by `separator`.
Value header_value(core::Arena& arena, const HeaderList& headers, core::Slice name,
                   core::Slice separator);

// User and password of an "Authorization: Basic" field. False: there is none, or it is malformed.
struct Credentials { core::Slice user, password; };
bool basic_credentials(Request& request, Credentials& to);

}  // namespace server
