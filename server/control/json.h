// Reading the members of a JSON object into settings: what stands there must be known, and of its
// type. For resources (resource.h).
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <variant>

#include "core/result.h"

namespace server {

// Where a member goes, and for numbers its bounds. Seconds may have fractions and are kept as
// milliseconds.
struct JsonField {
    struct Ms { int64_t* to; };
    const char* name;
    std::variant<std::string*, bool*, int*, int64_t*, Ms> to;
    int64_t least = 0, most = INT32_MAX;
};

// Members that are not there leave their setting as it is.
core::Result<void> read_json(simdjson::dom::element from,
                             std::initializer_list<JsonField> fields);

}  // namespace server
