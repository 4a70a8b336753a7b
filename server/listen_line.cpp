// How addresses and sockets' parameters are read.
#include "server/listen_line.h"

#include <netdb.h>

#include <algorithm>
#include <cstring>

#include "conf/values.h"
#include "core/text.h"
#include "server/config.h"
#include "server/http/router.h"

namespace server {

namespace {

using conf::Result;
using core::Address;
using core::Error;
using core::Slice;

std::string quoted(Slice text) { return "\"" + std::string(text) + "\""; }

Error listen_error(Slice why, Slice text) {
    return {std::string(why) + " in " + quoted(text) + " of the \"listen\" directive"};
}

Result<int> number_of(Slice argument, Slice value, int least) {
    auto number = core::parse_number(value, INT32_MAX);
    if (!number || int(*number) < least) {
        Slice name = argument.substr(0, argument.find('='));
        return Error{"invalid " + std::string(name) + " " + quoted(argument)};
    }
    return int(*number);
}

Result<void> set_number(int& to, Slice argument, Slice value, int least = 0) {
    auto number = number_of(argument, value, least);
    if (!number) return number.take_error();
    to = *number;
    return {};
}

Result<void> set_size(int& to, Slice argument, Slice value) {
    auto size = conf::parse_size(value);
    if (!size || *size > INT32_MAX) {
        return Error{"invalid " + std::string(argument.substr(0, argument.find('='))) + " " +
                     quoted(argument)};
    }
    to = int(*size);
    return {};
}

// on, off, or "idle:interval:count", each of which may be missing.
Result<void> set_so_keepalive(core::ListenOptions& options, Slice value) {
    options.keepalive_set = true;
    options.keepalive = value != "off";
    if (value == "on" || value == "off") return {};
    Error invalid{"invalid so_keepalive value: " + quoted(value)};
    int* fields[] = {&options.keepalive_idle_s, &options.keepalive_interval_s,
                     &options.keepalive_count};
    bool any = false;
    for (int i = 0; i < 3; ++i) {
        size_t colon = i < 2 ? value.find(':') : Slice::npos;
        Slice part = value.substr(0, colon);
        value = colon == Slice::npos ? Slice{} : value.substr(colon + 1);
        if (part.empty()) continue;
        auto number = i < 2 ? conf::parse_time_s(part)
                            : conf::parse_offset(part);
        if (!number) return invalid;
        *fields[i] = int(*number);
        any = any || *number > 0;
    }
    if (!any) return invalid;
    return {};
}

// "8000-8010" at the end of an address: the last port, and `text` is left with the first one.
int take_last_port(std::string& text) {
    size_t dash = text.rfind('-');
    if (dash == std::string::npos || dash == 0 || text.starts_with("unix:")) return 0;
    auto last = core::parse_number(Slice(text).substr(dash + 1), 65535);
    size_t from = text.find_last_not_of("0123456789", dash - 1);
    bool is_port = from == std::string::npos || text[from] == ':';
    if (!last || !is_port || !core::is_digit(text[dash - 1])) return 0;
    text.resize(dash);
    return int(*last);
}

Result<void> resolve(const std::string& host, int port, std::vector<Address>& to) {
    Address literal;
    if (Address::parse_ip(host, literal)) {
        literal.set_port(port);
        to.push_back(literal);
        return {};
    }
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return Error{"host not found"};
    for (addrinfo* at = found; at; at = at->ai_next) {
        Address address;
        std::memcpy(&address.any, at->ai_addr, at->ai_addrlen);
        address.size = at->ai_addrlen;
        address.set_port(port);
        bool known = false;
        for (const Address& other : to) known = known || other == address;
        if (!known) to.push_back(address);
    }
    freeaddrinfo(found);
    return {};
}

}  // namespace

Result<bool> read_listen_parameter(ListenAddress& to, Slice argument) {
    core::ListenOptions& options = to.options;
    size_t equals = argument.find('=');
    Slice name = argument.substr(0, equals);
    Slice value = equals == Slice::npos ? Slice{} : argument.substr(equals + 1);
    Result<void> set;
    if (argument == "bind") {
    } else if (argument == "deferred") {
        options.deferred = true;
    } else if (argument == "reuseport") {
        options.reuse_port = true;
    } else if (equals == Slice::npos) {
        return false;
    } else if (name == "setfib") {
        set = set_number(options.set_fib, argument, value);
    } else if (name == "fastopen") {
        set = set_number(options.fast_open, argument, value);
    } else if (name == "backlog") {
        set = set_number(options.backlog, argument, value, 1);
    } else if (name == "rcvbuf") {
        set = set_size(options.receive_buffer_bytes, argument, value);
    } else if (name == "sndbuf") {
        set = set_size(options.send_buffer_bytes, argument, value);
    } else if (name == "ipv6only" && value.starts_with('o')) {
        if (value != "on" && value != "off") {
            return Error{"invalid ipv6only flags " + quoted(argument.substr(equals))};
        }
        options.ipv6_only = value == "on";
    } else if (name == "so_keepalive") {
        set = set_so_keepalive(options, value);
    } else {
        return false;
    }
    if (!set) return set.take_error();
    to.options_given = true;
    return true;
}

Result<std::vector<Address>> read_listen_addresses(Slice written, int default_port) {
    std::string text(written);
    int last_port = take_last_port(text);
    auto parsed = core::parse_host_port(text);
    if (!parsed) return listen_error(parsed.error().what, written);
    std::vector<Address> addresses;
    if (parsed->is_unix) {
        Address local;
        if (!local.set_local_path(parsed->host)) {
            return listen_error("too long path in the unix domain socket", written);
        }
        addresses.push_back(local);
        return addresses;
    }
    int port = parsed->port ? parsed->port : default_port;
    if (!port) return listen_error("no port", written);
    if (last_port && last_port < port) return listen_error("invalid port range", written);
    std::string host = parsed->host.empty() ? "0.0.0.0" : parsed->host;
    for (int at = port; at <= std::max(port, last_port); ++at) {
        auto resolved = resolve(host, at, addresses);
        if (!resolved) return listen_error(resolved.error().what, written);
    }
    return addresses;
}

}  // namespace server
