// Sets of media types. Called by the filters that have a *_types directive.
#include "server/http/type_set.h"

#include <algorithm>

#include "conf/binder.h"
#include "core/text.h"
#include "server/http/request.h"

namespace server {

bool TypeSet::matches(const Request& request) const {
    core::Slice type = request.response.content_type;
    if (type.empty()) return false;
    if (any_) return true;
    type = type.substr(0, type.find_first_of("; "));
    return std::any_of(types_.begin(), types_.end(), [&](const std::string& known) {
        return core::iequals(type, known);
    });
}

conf::Result<void> parse_setting(TypeSet& to, const conf::Line& line) {
    if (!to.given_) to.types_ = {"text/html"};
    to.given_ = true;
    for (size_t i = 0; i < line.count(); ++i) {
        if (line.arg(i) == "*") {
            to.any_ = true;
            continue;
        }
        std::string type = core::to_lower(line.arg(i));
        if (std::find(to.types_.begin(), to.types_.end(), type) != to.types_.end()) {
            line.binder.warn(line.node.place,
                             "duplicate MIME type \"" + std::string(line.arg(i)) + "\"");
            continue;
        }
        to.types_.push_back(type);
    }
    return {};
}

}  // namespace server
