// Hosts and resolvers of Lua's sockets; see socket_address.h.
#include "lua/api/socket_address.h"

#include <random>
#include <string>

#include "core/text.h"
#include "lua/api.h"
#include "server/config.h"
#include "server/http/core_conf.h"
#include "server/http/request.h"
#include "server/worker.h"

namespace lua {
namespace {

const server::CoreConf& core_conf_of(const LuaTask& task) {
    if (task.request) return task.request->core();
    if (task.core_conf) return *task.core_conf;
    return server::Configuration::current().http<server::CoreConf>(server::http_core);
}

core::Error unparsable(core::Slice host, const std::string& why) {
    return {core::format("failed to parse host name \"%.*s\": %s", int(host.size()), host.data(),
                         why.c_str())};
}

}  // namespace

core::Result<core::Address> socket_address(core::Slice host, int port) {
    core::Address address;
    if (core::Address::parse_ip(host, address)) {
        address.set_port(port);
        return address;
    }
    if (host.empty()) return unparsable(host, "no host");
    auto parsed = core::parse_host_port(host);
    if (!parsed) return unparsable(host, parsed.error().what);
    if (parsed->is_unix) {
        if (!address.set_local_path(parsed->host)) {
            return unparsable(host, "too long path in the unix domain socket");
        }
    } else if (core::Address::parse_ip(parsed->host, address)) {
        address.set_port(parsed->port ? parsed->port : port);
    }
    return address;
}

core::Resolver* socket_resolver(const LuaTask& task) {
    if (auto* own = core_conf_of(task).resolver.get()) return own;
    server::Worker* worker = server::Worker::current();
    return compat_openresty() || !worker ? nullptr : &worker->resolver();
}

int64_t resolver_timeout_ms(const LuaTask& task) {
    return core_conf_of(task).resolver_timeout->count;
}

core::Address choose_address(const core::Resolution& found, int port) {
    static std::minstd_rand chance{std::random_device{}()};
    core::Address address = found.addresses[chance() % found.addresses.size()];
    address.set_port(port);
    return address;
}

}  // namespace lua
