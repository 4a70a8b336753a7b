// Addresses: parsing and printing. No name is resolved here.
#include <arpa/inet.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/socket.h"
#include "core/text.h"

namespace core {

namespace {

size_t print_v4(const sockaddr_in& from, char* to) {
    uint8_t bytes[4];
    std::memcpy(bytes, &from.sin_addr, 4);
    char* at = to;
    for (int i = 0; i < 4; ++i) {
        if (i) *at++ = '.';
        unsigned value = bytes[i];
        if (value >= 100) *at++ = char('0' + value / 100);
        if (value >= 10) *at++ = char('0' + value / 10 % 10);
        *at++ = char('0' + value % 10);
    }
    return size_t(at - to);
}

// The path of a Unix address; empty for an unnamed one. An abstract name keeps its leading NUL.
Slice local_path(const Address& address) {
    constexpr socklen_t head = offsetof(sockaddr_un, sun_path);
    if (address.size <= head) return {};
    const char* path = address.local.sun_path;
    size_t room = address.size - head;
    if (path[0] == '\0') return {path, room > 1 && path[1] ? room : 0};
    return {path, ::strnlen(path, room)};
}

bool parse_v4(Slice text, Address& to) {
    uint32_t value = 0;
    for (int part = 0; part < 4; ++part) {
        size_t dot = text.find('.');
        if ((dot == Slice::npos) != (part == 3)) return false;
        Slice digits = text.substr(0, dot);
        auto number = parse_number(digits, 255);
        if (!number || digits.size() > 3) return false;
        value = value << 8 | uint32_t(*number);
        if (part < 3) text.remove_prefix(dot + 1);
    }
    to.v4 = {};
    to.v4.sin_family = AF_INET;
    to.v4.sin_addr.s_addr = htonl(value);
    to.size = sizeof to.v4;
    return true;
}

bool parse_v6(Slice text, Address& to) {
    char copy[INET6_ADDRSTRLEN];
    if (text.size() >= sizeof copy || text.find(':') == Slice::npos) return false;
    std::memcpy(copy, text.data(), text.size());
    copy[text.size()] = '\0';
    in6_addr parsed;
    if (std::strlen(copy) != text.size() || ::inet_pton(AF_INET6, copy, &parsed) != 1) return false;
    to.v6 = {};
    to.v6.sin6_family = AF_INET6;
    to.v6.sin6_addr = parsed;
    to.size = sizeof to.v6;
    return true;
}

Result<HostPort> parse_unix(Slice path) {
    if (path.empty()) return Error{"no path in the unix domain socket"};
    if (path.size() >= sizeof(sockaddr_un::sun_path)) {
        return Error{"too long path in the unix domain socket"};
    }
    return HostPort{std::string(path), 0, true};
}

Result<int> parse_port(Slice text) {
    auto port = parse_number(text, 65535);
    if (!port || *port == 0) return Error{"invalid port"};
    return int(*port);
}

}  // namespace

int Address::port() const {
    if (family() == AF_INET) return ntohs(v4.sin_port);
    if (family() == AF_INET6) return ntohs(v6.sin6_port);
    return 0;
}

void Address::set_port(int port) {
    if (family() == AF_INET) v4.sin_port = htons(uint16_t(port));
    if (family() == AF_INET6) v6.sin6_port = htons(uint16_t(port));
}

Slice Address::ip_into(char* room, size_t size) const {
    if (family() == AF_INET && size >= INET_ADDRSTRLEN) return {room, print_v4(v4, room)};
    if (family() == AF_INET6) {
        if (!::inet_ntop(AF_INET6, &v6.sin6_addr, room, socklen_t(size))) return {};
        return {room, std::strlen(room)};
    }
    if (family() != AF_UNIX) return {};
    Slice path = local_path(*this);
    size_t total = std::min(size, path.size() + 5);
    std::memcpy(room, "unix:", std::min<size_t>(total, 5));
    if (total > 5) std::memcpy(room + 5, path.data(), total - 5);
    return {room, total};
}

std::string Address::ip_text() const {
    char room[128];
    return std::string(ip_into(room, sizeof room));
}

std::string Address::text() const {
    if (family() == AF_INET) return ip_text() + ":" + std::to_string(port());
    if (family() == AF_INET6) return "[" + ip_text() + "]:" + std::to_string(port());
    return ip_text();
}

bool Address::operator==(const Address& other) const {
    if (family() != other.family()) return false;
    switch (family()) {
    case AF_INET:
        return v4.sin_port == other.v4.sin_port && v4.sin_addr.s_addr == other.v4.sin_addr.s_addr;
    case AF_INET6:
        return v6.sin6_port == other.v6.sin6_port &&
               std::memcmp(&v6.sin6_addr, &other.v6.sin6_addr, sizeof v6.sin6_addr) == 0;
    case AF_UNIX: return local_path(*this) == local_path(other);
    default: return true;
    }
}

bool Address::is_wildcard() const {
    if (family() == AF_INET) return v4.sin_addr.s_addr == htonl(INADDR_ANY);
    if (family() == AF_INET6) return IN6_IS_ADDR_UNSPECIFIED(&v6.sin6_addr);
    return false;
}

CompactAddress::CompactAddress(const Address& from) {
    ip_.v4.sin_family = sa_family_t(from.family());
    if (from.family() == AF_INET) ip_.v4 = from.v4;
    if (from.family() == AF_INET6) ip_.v6 = from.v6;
}

CompactAddress::operator Address() const {
    Address full;
    full.any.sa_family = ip_.v4.sin_family;
    full.size = sizeof(sa_family_t);
    if (family() == AF_INET) {
        full.v4 = ip_.v4;
        full.size = sizeof ip_.v4;
    } else if (family() == AF_INET6) {
        full.v6 = ip_.v6;
        full.size = sizeof ip_.v6;
    } else if (family() == AF_UNIX) {
        full.local.sun_path[0] = '\0';
    }
    return full;
}

bool Address::parse_ip(Slice text, Address& to) {
    if (text.size() >= 2 && text.front() == '[' && text.back() == ']') {
        return parse_v6(text.substr(1, text.size() - 2), to);
    }
    return parse_v4(text, to) || parse_v6(text, to);
}

bool Address::set_local_path(Slice path) {
    if (path.size() >= sizeof local.sun_path) return false;
    local = {};
    local.sun_family = AF_UNIX;
    std::memcpy(local.sun_path, path.data(), path.size());
    size = socklen_t(offsetof(sockaddr_un, sun_path) + path.size() + 1);
    return true;
}

Result<HostPort> parse_host_port(Slice text) {
    if (text.starts_with("unix:")) return parse_unix(text.substr(5));
    HostPort result;
    Slice host = text, port;
    if (text.starts_with("[")) {
        size_t close = text.find(']');
        if (close == Slice::npos) return Error{"invalid host"};
        host = text.substr(0, close + 1);
        Slice rest = text.substr(close + 1);
        Address check;
        if (!Address::parse_ip(host, check)) return Error{"invalid IPv6 address"};
        if (!rest.empty()) {
            if (rest[0] != ':') return Error{"invalid host"};
            port = rest.substr(1);
            if (port.empty()) return Error{"invalid port"};
        }
    } else if (size_t colon = text.rfind(':'); colon != Slice::npos) {
        host = text.substr(0, colon);
        port = text.substr(colon + 1);
        if (port.empty() || host.find(':') != Slice::npos) return Error{"invalid port"};
        if (host.empty()) return Error{"no host"};
    } else if (!text.empty() && text.find_first_not_of("0123456789") == Slice::npos) {
        host = "*";
        port = text;
    }
    if (!port.empty()) {
        auto number = parse_port(port);
        if (!number) return number.take_error();
        result.port = *number;
    }
    if (host.empty()) return Error{"no host"};
    if (host != "*") result.host = host;
    return result;
}

}  // namespace core
