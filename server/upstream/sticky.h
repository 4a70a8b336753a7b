// Sticky sessions of an upstream group: which server a client belongs to, by a cookie of ours, by a
// route that a variable names, or by a session identifier learned from responses. Used by
// upstream/session; the directive is in upstream/modules/sticky.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/slice.h"
#include "server/http/variables.h"

namespace core {
class ShmZone;
}

namespace server {

class Request;
struct Peer;

struct StickyRule {
    enum class Kind : uint8_t { cookie, route, learn };

    Kind kind = Kind::cookie;
    std::vector<ComplexValue> lookup, create;

    // cookie
    std::string cookie, path;
    int64_t expires_s = -1;              // -1: a session cookie; INT64_MAX: max
    ComplexValue domain, same_site;
    bool http_only = false, secure = false;

    // learn
    std::string zone_name;
    size_t zone_bytes = 0;
    int64_t timeout_ms = 600000;
    std::shared_ptr<core::ShmZone> zone;

    // The identifier of the server this client belongs to; null data when it has none.
    core::Slice find(Request& request) const;
    // A server has answered: the client is told, or its session is noted.
    void chosen(Request& request, const Peer& peer) const;
};

// The identifier of a server without a route of its own.
std::string sticky_identifier(core::Slice address);

}  // namespace server
