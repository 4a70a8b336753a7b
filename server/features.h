// What this binary has of the modules that nginx users know by name: for -V and load_module.
#pragma once

#include <string>

#include "core/slice.h"

namespace server {

// Whether a load_module path names a module of nginx or OpenResty whose directives are here.
bool is_built_in(core::Slice path);

// "nginx version: openresty/1.29.8.1 (resty-server 0.1.0)"
std::string version_line();
// What -V prints below it: compiler, libraries, "configure arguments: …".
std::string build_lines();
// Those arguments ("--prefix=… --with-http_ssl_module …"), also for nginx_configure() in Lua.
std::string configure_arguments();

constexpr const char* nginx_version = "1.29.8";
constexpr const char* openresty_version = "1.29.8.1";
constexpr int nginx_version_number = 1029008;

}  // namespace server
