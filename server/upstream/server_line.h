// The `server` lines of upstream{} blocks, in http{} and in stream{}: an address and parameters.
// Called by their directives; names are looked up later.
#pragma once

#include "conf/directive.h"
#include "server/upstream/group.h"

namespace server {

// `default_port` 0: there must be one.
conf::Result<ServerLine> read_server_line(const conf::Line& line, int default_port);

}  // namespace server
