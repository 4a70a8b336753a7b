// ngx.config: what this build and this server are.
#include "lua/api.h"
#include "server/config.h"
#include "server/features.h"

namespace lua {
namespace {

int prefix(lua_State* L) {
    push_slice(L, server::Configuration::current().options().prefix);
    return 1;
}

int nginx_configure(lua_State* L) {
    push_slice(L, server::configure_arguments());
    return 1;
}

constexpr LuaFunction functions[] = {
    {"ngx.config.prefix", prefix},
    {"ngx.config.nginx_configure", nginx_configure},
};
REGISTER_LUA_API(config, functions);

}  // namespace
}  // namespace lua
