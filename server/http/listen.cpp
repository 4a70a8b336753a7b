// The listen directive of http{}: what its addresses speak, and who is their default server. How
// addresses and sockets' parameters are written is in server/listen_line.h.
// What several servers say about one address is put together by Configuration::add_listen().
#include <unistd.h>

#include "server/config.h"
#include "server/http/core_conf.h"
#include "server/http/core_directives.h"
#include "server/http/router.h"
#include "server/listen_line.h"

namespace server {

namespace {

using conf::Result;
using core::Address;
using core::Error;
using core::Slice;

constexpr int default_port = 80;
constexpr int unprivileged_default_port = 8000;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

Result<void> read_parameter(ListenAddress& to, Slice argument, const conf::Line& line) {
    if (argument == "default_server" || argument == "default") {
        to.default_given = true;
    } else if (argument == "ssl") {
        to.ssl = true;
    } else if (argument == "http2") {
        line.binder.warn(line.node.place,
                         "the \"listen ... http2\" directive is deprecated, use the \"http2\" "
                         "directive instead");
        to.http2 = true;
    } else if (argument == "proxy_protocol") {
        to.proxy_protocol = true;
    } else if (argument == "quic") {
        return Error{"the \"quic\" parameter requires ngx_http_v3_module"};
    } else if (argument == "multipath") {
        line.binder.warn(line.node.place, "multipath is not supported on this platform, ignored");
    } else if (argument.starts_with("accept_filter=")) {
        line.binder.warn(line.node.place, "accept filters " + quoted(argument) +
                                              " are not supported on this platform, ignored");
    } else {
        auto read = read_listen_parameter(to, argument);
        if (!read) return read.take_error();
        if (!*read) return conf::invalid_parameter(argument);
    }
    return {};
}

}  // namespace

Result<void> add_listen(CoreConf&, const conf::Line& line) {
    auto addresses = read_listen_addresses(line.arg(0), default_port);
    if (!addresses) return addresses.take_error();
    Configuration& configuration = Configuration::current();
    for (const Address& address : *addresses) {
        ListenAddress listen;
        listen.address = address;
        listen.text = line.arg(0);
        for (size_t i = 1; i < line.count(); ++i) {
            auto read = read_parameter(listen, line.arg(i), line);
            if (!read) return read;
        }
        auto added = configuration.add_listen(std::move(listen), *configuration.binding_server,
                                              line);
        if (!added) return added;
    }
    return {};
}

Result<void> add_default_listen(VirtualServer& server, const conf::Line& line) {
    ListenAddress listen;
    int port = geteuid() == 0 ? default_port : unprivileged_default_port;
    listen.text = "*:" + std::to_string(port);
    Address::parse_ip("0.0.0.0", listen.address);
    listen.address.set_port(port);
    return Configuration::current().add_listen(std::move(listen), server, line);
}

}  // namespace server
