// One request to the control socket, blocking.
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>

#include "core/log.h"
#include "core/socket.h"
#include "core/text.h"
#include "server/control/client.h"

namespace server {

namespace {

ControlReply unreachable(const std::string& what, int error) {
    return {0, core::format("%s (%d: %s)", what.c_str(), error, core::error_name(error))};
}

bool address_of(const ControlTarget& target, core::Address& address) {
    if (!target.socket.empty()) return address.set_local_path(target.socket);
    auto named = core::parse_host_port(target.host);
    if (!named || named->is_unix || !named->port) return false;
    if (!core::Address::parse_ip(named->host, address)) return false;
    address.set_port(named->port);
    return true;
}

bool send_all(int fd, core::Slice text) {
    while (!text.empty()) {
        ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        text.remove_prefix(size_t(sent));
    }
    return true;
}

// Up to its end: the server closes.
std::string receive_all(int fd) {
    std::string text;
    char room[16 * 1024];
    for (;;) {
        ssize_t got = ::recv(fd, room, sizeof room, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return text;
        text.append(room, size_t(got));
    }
}

std::string request_text(const ControlTarget& target, const std::string& method,
                         const std::string& path, const std::string& body,
                         const std::string& if_match) {
    std::string text = method + " " + path + " HTTP/1.1\r\n";
    text += "Host: localhost\r\nConnection: close\r\n";
    if (!if_match.empty()) text += "If-Match: " + if_match + "\r\n";
    if (!target.token.empty()) text += "Authorization: Bearer " + target.token + "\r\n";
    if (!body.empty() || method != "GET") {
        text += core::format("Content-Type: application/json\r\nContent-Length: %zu\r\n",
                             body.size());
    }
    return text + "\r\n" + body;
}

}  // namespace

ControlReply ask_control(const ControlTarget& target, const std::string& method,
                         const std::string& path, const std::string& body,
                         const std::string& if_match) {
    std::string where = target.socket.empty() ? target.host : target.socket;
    core::Address address;
    if (!address_of(target, address)) return {0, "\"" + where + "\" is no address to ask at"};
    core::Fd fd(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return unreachable("socket() failed", errno);
    timeval limit{target.timeout_s, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (::connect(fd.get(), &address.any, address.size) != 0) {
        return unreachable("connect() to " + where + " failed", errno);
    }
    // A server that refuses answers before it has read all.
    bool sent = send_all(fd.get(), request_text(target, method, path, body, if_match));
    std::string answer = receive_all(fd.get());
    size_t head = answer.find("\r\n\r\n");
    if (!answer.starts_with("HTTP/1.1 ") || head == std::string::npos) {
        return {0, "no answer from " + where + (sent ? "" : ": the request was not taken")};
    }
    auto status = core::parse_number(core::Slice(answer).substr(9, 3));
    ControlReply reply{int(status.value_or(0)), answer.substr(head + 4)};
    while (reply.body.ends_with('\n')) reply.body.pop_back();
    return reply;
}

}  // namespace server
