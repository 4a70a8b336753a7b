// Where a protocol without URLs (memcached, memc) is to go: "host:port", "unix:/path", or the name
// of an upstream group.
#pragma once

#include "core/slice.h"
#include "server/verdict.h"

namespace server {

class UpstreamSession;

// Begins the session there; what is no such place is logged and rejected with 500. The text must
// live until the call returns.
Verdict start_at(UpstreamSession& session, core::Slice target);

}  // namespace server
