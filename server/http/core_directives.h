// The functions behind the core module's directives that are more than one field. Split by topic:
// core_directives.cpp (settings), core_blocks.cpp (server, location, limit_except), listen.cpp.
#pragma once

#include "conf/directive.h"

namespace server {

struct CoreConf;
class Request;
struct Location;
struct Verdict;
struct VirtualServer;

// core_directives.cpp
conf::Result<void> set_root(CoreConf& conf, const conf::Line& line);         // root and alias
conf::Result<void> set_types(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_internal(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_rate(CoreConf& conf, const conf::Line& line);         // limit_rate, _after
conf::Result<void> set_aio(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_directio(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_directio_alignment(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_pool_size(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_keepalive_timeout(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_error_page(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_early_hints(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_open_file_cache(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_disable_symlinks(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_send_lowat(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_resolver(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_error_log(CoreConf& conf, const conf::Line& line);

// try_files.cpp
conf::Result<void> set_try_files(CoreConf& conf, const conf::Line& line);
Verdict try_files(Request& request);

// core_blocks.cpp
conf::Result<void> add_server(CoreConf& conf, const conf::Line& line);
conf::Result<void> set_server_name(CoreConf& conf, const conf::Line& line);
conf::Result<void> add_location(CoreConf& conf, const conf::Line& line);
conf::Result<void> add_limit_except(CoreConf& conf, const conf::Line& line);
// Makes `location` a level of its own below the one being bound, and binds the block's directives
// there with the given context. For if blocks too.
conf::Result<void> bind_location(Location& location, const conf::Line& line, uint32_t context);

// listen.cpp
conf::Result<void> add_listen(CoreConf& conf, const conf::Line& line);
// `listen 80`, for a server without any.
conf::Result<void> add_default_listen(VirtualServer& server, const conf::Line& line);

}  // namespace server
