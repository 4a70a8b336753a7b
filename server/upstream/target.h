// What protocols without URLs (memcached, memc) share: where a request is to go ("host:port",
// "unix:/path", or the name of an upstream group), and when it goes to the next one.
#pragma once

#include "conf/directive.h"
#include "core/slice.h"
#include "server/upstream/settings.h"
#include "server/verdict.h"

namespace server {

class UpstreamSession;

// Begins the session there; what is no such place is logged and rejected with 500. The text must
// live until the call returns.
Verdict start_at(UpstreamSession& session, core::Slice target);

// memcached_next_upstream, memc_next_upstream: error, timeout, invalid_response, not_found, off.
conf::Result<void> read_next_upstream(conf::Setting<conf::Choices<NextUpstream>>& to,
                                      const conf::Line& line);

}  // namespace server
