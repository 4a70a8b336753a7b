// control_socket, control_listen, control_state.
#include "server/control/conf.h"

#include <algorithm>
#include <fstream>

#include "conf/binder.h"
#include "core/text.h"
#include "server/config.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

constexpr size_t token_bytes_least = 16;

// control_socket PATH | unix:PATH | off;
Result<void> control_socket(ControlConf& conf, const Line& line) {
    Slice path = line.arg(0);
    if (path == "off") {
        conf.socket_off = true;
        return {};
    }
    if (path.starts_with("unix:")) path.remove_prefix(5);
    if (path.empty()) return conf::invalid_value(line, line.arg(0));
    ControlAddress address;
    address.path = line.binder.full_path(path);
    // Room for the name it has until it listens.
    if (!address.address.set_local_path(address.path + ".new")) {
        return conf::directive_error(line, "has a path that is too long for a socket");
    }
    address.address.set_local_path(address.path);
    for (const ControlAddress& known : conf.addresses) {
        if (known.path == address.path) return conf::detail::duplicate();
    }
    conf.addresses.push_back(std::move(address));
    return {};
}

Result<std::string> read_token(const std::string& path) {
    std::ifstream file(path);
    std::string token;
    if (!file || !std::getline(file, token)) return Error{"cannot read \"" + path + "\""};
    return std::string(core::trim(token.ends_with('\r') ? Slice(token).substr(0, token.size() - 1)
                                                        : Slice(token)));
}

// control_listen ADDRESS:PORT token=TEXT | token_file=PATH;
Result<void> control_listen(ControlConf& conf, const Line& line) {
    auto named = core::parse_host_port(line.arg(0));
    ControlAddress address;
    bool good = named && !named->is_unix && named->port &&
                core::Address::parse_ip(named->host, address.address);
    if (!good) return conf::directive_error(line, "wants an IP address and a port");
    address.address.set_port(named->port);
    Slice parameter = line.arg(1);
    if (parameter.starts_with("token=")) {
        address.token = parameter.substr(6);
    } else if (parameter.starts_with("token_file=")) {
        auto token = read_token(line.binder.full_path(parameter.substr(11), true));
        if (!token) return token.take_error();
        address.token = std::move(*token);
    } else {
        return conf::invalid_parameter(parameter);
    }
    if (address.token.size() < token_bytes_least) {
        return conf::directive_error(line, "wants a token of at least 16 characters");
    }
    for (const ControlAddress& known : conf.addresses) {
        if (known.path.empty() && known.address == address.address) {
            return conf::detail::duplicate();
        }
    }
    conf.addresses.push_back(std::move(address));
    return {};
}

Result<void> control_state(ControlConf& conf, const Line& line) {
    if (!conf.state_path.empty()) return conf::detail::duplicate();
    if (line.arg(0) != "off") conf.state_path = line.binder.full_path(line.arg(0));
    return {};
}

Result<void> merge(ControlConf& conf, const ControlConf* outer, conf::Binder&) {
    if (outer || !conf.socket_off) return {};
    bool path = std::any_of(conf.addresses.begin(), conf.addresses.end(),
                            [](const ControlAddress& each) { return !each.path.empty(); });
    return path ? Result<void>(Error{"\"control_socket off\" stands beside another one"})
                : Result<void>();
}

constexpr conf::Directive directives[] = {
    {"control_socket", conf::in_main, conf::takes(1), conf::call<control_socket>},
    {"control_listen", conf::in_main, conf::takes(2), conf::call<control_listen>},
    {"control_state", conf::in_main, conf::takes(1), conf::call<control_state>},
};

const Module module_control{
    .name = "control",
    .conf = conf_with_merge<ControlConf, merge>,
    .directives = directives,
};
REGISTER_MODULE(module_control);

}  // namespace

bool has_control(Configuration& configuration) {
    return !control_conf(configuration).addresses.empty();
}

ControlConf& control_conf(Configuration& configuration) {
    auto& binder = configuration.binder();
    return *static_cast<ControlConf*>(binder.own(configuration.main_level(), module_control.index));
}

}  // namespace server
