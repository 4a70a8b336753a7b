// Where the command line's -p and -c lead: the prefix and the configuration file. Used by main and
// by the client of the control socket.
#pragma once

#include <string>

namespace server {

struct CommandPaths {
    std::string prefix;                    // absolute, with a trailing slash
    std::string conf;
};

// Empty: not given.
CommandPaths find_paths(const std::string& prefix, const std::string& conf);

}  // namespace server
