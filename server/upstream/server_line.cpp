// Reading `server` lines.
#include "server/upstream/server_line.h"

#include <climits>

#include "conf/values.h"
#include "core/text.h"

namespace server {

namespace {

using conf::Line;
using conf::Result;
using core::Error;
using core::Slice;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

bool after(Slice argument, Slice name, Slice& value) {
    if (!argument.starts_with(name)) return false;
    value = argument.substr(name.size());
    return true;
}

Result<bool> set_number(int& to, Slice argument, Slice value, int least) {
    auto number = core::parse_number(value, INT_MAX);
    if (!number || int(*number) < least) return conf::invalid_parameter(argument);
    to = int(*number);
    return true;
}

Result<bool> read_timed(PeerSpec& spec, Slice argument) {
    Slice value;
    if (after(argument, "fail_timeout=", value)) {
        auto seconds = conf::parse_time_s(value);
        if (!seconds) return conf::invalid_parameter(argument);
        spec.fail_timeout_s = *seconds;
        return true;
    }
    if (!after(argument, "slow_start=", value)) return false;
    auto ms = conf::parse_time_ms(value);
    if (!ms) return conf::invalid_parameter(argument);
    spec.slow_start_ms = *ms;
    return true;
}

Result<bool> read_parameter(ServerLine& server, Slice argument) {
    PeerSpec& spec = server.spec;
    Slice value;
    if (after(argument, "weight=", value)) return set_number(spec.weight, argument, value, 1);
    if (after(argument, "max_conns=", value)) return set_number(spec.max_conns, argument, value, 0);
    if (after(argument, "max_fails=", value)) return set_number(spec.max_fails, argument, value, 0);
    if (after(argument, "service=", value)) {
        if (value.empty()) return Error{"service is empty"};
        server.service = value;
    } else if (after(argument, "route=", value)) {
        if (value.empty()) return Error{"route is empty"};
        if (value.size() > 32) return Error{"route is longer than 32"};
        spec.route = value;
    } else if (argument == "backup") {
        spec.backup = true;
    } else if (argument == "down") {
        spec.down = true;
    } else if (argument == "drain") {
        spec.drain = true;
    } else if (argument == "resolve") {
        server.resolve = true;
    } else {
        return read_timed(spec, argument);
    }
    return true;
}

Result<void> read_address(ServerLine& server, Slice written, int default_port) {
    Error where{" in upstream " + quoted(written)};
    auto named = core::parse_host_port(written);
    if (!named) return Error{named.error().what + where.what};
    server.spec.server = written;
    if (named->is_unix) {
        core::Address address;
        if (named->host.empty()) return Error{"no path in the unix domain socket" + where.what};
        if (!address.set_local_path(named->host)) {
            return Error{"too long path in the unix domain socket" + where.what};
        }
        server.addresses.push_back(address);
        return {};
    }
    if (named->host.empty()) return Error{"no host" + where.what};
    server.port = named->port ? named->port : default_port;
    if (!server.port) return Error{"no port" + where.what};
    core::Address literal;
    if (core::Address::parse_ip(named->host, literal)) {
        if (!server.service.empty()) {
            return Error{"service upstream " + quoted(written) + " requires domain name"};
        }
        literal.set_port(server.port);
        server.addresses.push_back(literal);
        server.resolve = false;
        return {};
    }
    if (!server.service.empty() && named->port) {
        return Error{"service upstream " + quoted(written) + " may not have port"};
    }
    server.host = named->host;
    return {};
}

}  // namespace

Result<ServerLine> read_server_line(const Line& line, int default_port) {
    ServerLine server;
    for (size_t i = 1; i < line.count(); ++i) {
        auto read = read_parameter(server, line.arg(i));
        if (!read) return read.take_error();
        if (!*read) return conf::invalid_parameter(line.arg(i));
    }
    if (!server.service.empty() && !server.resolve) {
        return Error{"service upstream " + quoted(line.arg(0)) +
                     " requires \"resolve\" parameter"};
    }
    auto read = read_address(server, line.arg(0), default_port);
    if (!read) return read.take_error();
    return server;
}

}  // namespace server
