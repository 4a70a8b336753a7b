// Settings of the control socket: control_socket, control_listen, control_state. Declared in
// control_module.cpp.
#pragma once

#include <string>
#include <vector>

#include "server/control/connection.h"

namespace server {

class Configuration;

struct ControlConf {
    std::vector<ControlAddress> addresses;
    bool socket_off = false;               // control_socket off
    std::string state_path;                // empty: not kept
};

ControlConf& control_conf(Configuration& configuration);

}  // namespace server
