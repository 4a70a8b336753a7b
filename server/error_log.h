// The error_log directive, which the main level and the http levels share.
#pragma once

#include "conf/directive.h"
#include "core/log.h"

namespace server {

// Adds what one `error_log` line names (a file, stderr, syslog:, memory:) to `log`.
conf::Result<void> add_error_log(const conf::Line& line, core::Log& log);

}  // namespace server
