// Opening a socket to an upstream server as the settings say: local address, buffers, keepalive.
// Used by upstream/session.
#pragma once

#include "core/result.h"
#include "core/slice.h"
#include "core/socket.h"

namespace server {

class Request;
struct UpstreamSettings;

// `local`: an address to bind to instead of the configured one; empty: none.
core::Result<core::Fd> open_upstream_socket(Request& request, const UpstreamSettings& settings,
                                            core::Slice local, const core::Address& address);

}  // namespace server
