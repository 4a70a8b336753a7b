// fastcgi_temp_path and its like: where responses of upstream servers are kept on disk. Every nginx
// configuration written by a tool names them, so they are read here, once for all gateway modules.
#include "conf/values.h"
#include "server/module.h"

namespace server {
namespace {

struct TempPaths {
    conf::Setting<conf::TempPath> fastcgi, uwsgi, scgi;
};

constexpr conf::Arity path_and_levels = conf::takes(1, 4);
constexpr conf::Directive directives[] = {
    {"fastcgi_temp_path", conf::in_any_http, path_and_levels, conf::field<&TempPaths::fastcgi>},
    {"uwsgi_temp_path", conf::in_any_http, path_and_levels, conf::field<&TempPaths::uwsgi>},
    {"scgi_temp_path", conf::in_any_http, path_and_levels, conf::field<&TempPaths::scgi>},
};

}  // namespace

constinit const Module temp_paths{
    .name = "temp_paths",
    .conf = conf_of<TempPaths>,
    .directives = directives,
};
REGISTER_MODULE(temp_paths);

}  // namespace server
