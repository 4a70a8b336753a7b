// What `listen` says in http{} and stream{} alike: addresses (port ranges and host names included),
// and parameters of the socket. Called by their listen directives, which know the rest.
#pragma once

#include <vector>

#include "conf/directive.h"
#include "core/socket.h"

namespace server {

struct ListenAddress;

// `default_port` 0: there must be one.
conf::Result<std::vector<core::Address>> read_listen_addresses(core::Slice written,
                                                               int default_port);

// Parameters that say something about the socket: only one listen directive of an address may.
// False: it is none of these.
conf::Result<bool> read_listen_parameter(ListenAddress& to, core::Slice argument);

}  // namespace server
