// TypeSet: the media types a filter works on (gzip_types, charset_types, sub_filter_types, …).
#pragma once

#include <string>
#include <vector>

#include "conf/directive.h"
#include "core/slice.h"

namespace server {

class Request;

class TypeSet {
  public:
    static constexpr bool repeatable = true;

    TypeSet() = default;
    // The types that apply unless the directive is given.
    TypeSet(std::initializer_list<const char*> defaults)
        : types_(defaults.begin(), defaults.end()) {}

    // Is the response's content type, without its parameters, one of these?
    bool matches(const Request& request) const;

  private:
    friend conf::Result<void> parse_setting(TypeSet& to, const conf::Line& line);
    std::vector<std::string> types_;      // lower-case
    bool any_ = false;
    bool given_ = false;                  // no longer the default
};

// "*" is every type; text/html is always among them.
conf::Result<void> parse_setting(TypeSet& to, const conf::Line& line);

}  // namespace server
