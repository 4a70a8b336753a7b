// Syslog datagrams: parameters, header, sending.
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

#include "core/clock.h"
#include "core/log_sinks.h"
#include "core/text.h"

namespace core {

namespace {

constexpr Slice facilities[] = {"kern",   "user",   "mail",   "daemon", "auth",   "intern",
                                "lpr",    "news",   "uucp",   "clock",  "authpriv", "ftp",
                                "ntp",    "audit",  "alert",  "cron",   "local0", "local1",
                                "local2", "local3", "local4", "local5", "local6", "local7"};
constexpr Slice severities[] = {"emerg", "alert",  "crit", "error",
                                "warn",  "notice", "info", "debug"};
constexpr size_t tag_bytes_max = 32;   // RFC 3164 5.3
constexpr int default_port = 514;

template <size_t count>
int index_of(const Slice (&names)[count], Slice name) {
    auto found = std::find(std::begin(names), std::end(names), name);
    return found == std::end(names) ? -1 : int(found - std::begin(names));
}

Error refuse(const char* what, Slice value) {
    return {format("%s \"%.*s\"", what, int(value.size()), value.data())};
}

Result<Address> find_server(Slice text) {
    auto bad = [&](const std::string& why) {
        return Error{format("%s in syslog server \"%.*s\"", why.c_str(), int(text.size()),
                            text.data())};
    };
    auto target = parse_host_port(text);
    if (!target) return bad(target.error().what);
    Address address;
    if (target->is_unix) {
        if (!address.set_local_path(target->host)) return bad("too long path");
        return address;
    }
    int port = target->port ? target->port : default_port;
    if (target->host.empty()) return bad("no host");
    if (!Address::parse_ip(target->host, address)) {
        addrinfo hints{}, *found = nullptr;
        hints.ai_socktype = SOCK_DGRAM;
        hints.ai_flags = AI_ADDRCONFIG;
        if (::getaddrinfo(target->host.c_str(), nullptr, &hints, &found) != 0 || !found) {
            return bad("host not found");
        }
        std::memcpy(&address.any, found->ai_addr, found->ai_addrlen);
        address.size = found->ai_addrlen;
        ::freeaddrinfo(found);
    }
    address.set_port(port);
    return address;
}

// "Nov 20 12:00:00", made once a second and thread.
Slice syslog_date() {
    static constexpr const char* months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                             "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    static thread_local time_t made = -1;
    static thread_local char text[32];
    time_t now = Clock::seconds();
    if (now != made) {
        made = now;
        tm parts;
        ::localtime_r(&now, &parts);
        std::snprintf(text, sizeof text, "%s %2d %02d:%02d:%02d", months[parts.tm_mon % 12],
                      parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
    }
    return {text, 15};
}

}  // namespace

struct SyslogParser {
    Syslog& to;
    bool has_facility = false, has_severity = false, has_tag = false;

    Result<void> take(Slice item) {
        if (item.starts_with("server=")) return server(item.substr(7));
        if (item.starts_with("facility=")) {
            if (has_facility) return Error{"duplicate syslog \"facility\""};
            has_facility = true;
            to.facility_ = index_of(facilities, item.substr(9));
            if (to.facility_ < 0) return refuse("unknown syslog facility", item.substr(9));
            return {};
        }
        if (item.starts_with("severity=")) {
            if (has_severity) return Error{"duplicate syslog \"severity\""};
            has_severity = true;
            to.severity_ = index_of(severities, item.substr(9));
            if (to.severity_ < 0) return refuse("unknown syslog severity", item.substr(9));
            return {};
        }
        if (item.starts_with("tag=")) return tag(item.substr(4));
        if (item == "nohostname") {
            to.with_hostname_ = false;
            return {};
        }
        return refuse("unknown syslog parameter", item);
    }

    Result<void> server(Slice text) {
        if (to.server_.size) return Error{"duplicate syslog \"server\""};
        auto address = find_server(text);
        if (!address) return address.take_error();
        to.server_ = *address;
        return {};
    }

    Result<void> tag(Slice text) {
        if (has_tag) return Error{"duplicate syslog \"tag\""};
        has_tag = true;
        if (text.size() > tag_bytes_max) return Error{"syslog tag length exceeds 32"};
        for (char c : text) {
            if (is_digit(c) || is_alpha(c) || c == '_') continue;
            return Error{"syslog \"tag\" only allows alphanumeric characters and underscore"};
        }
        to.tag_ = text;
        return {};
    }
};

Result<std::shared_ptr<Syslog>> Syslog::open(Slice parameters) {
    auto target = std::make_shared<Syslog>();
    SyslogParser parser{*target};
    for (;;) {
        size_t comma = parameters.find(',');
        auto taken = parser.take(parameters.substr(0, comma));
        if (!taken) return taken.take_error();
        if (comma == Slice::npos) break;
        parameters.remove_prefix(comma + 1);
    }
    if (!target->server_.size) return Error{"no syslog server specified"};
    char host[256] = "";
    ::gethostname(host, sizeof host - 1);
    target->hostname_ = host;
    return target;
}

bool Syslog::connect() {
    Fd fd(::socket(server_.family(), SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd.valid() || ::connect(fd.get(), &server_.any, server_.size) != 0) return false;
    fd_ = std::move(fd);
    return true;
}

void Syslog::send(int severity, Slice text) {
    if (!fd_.valid() && !connect()) return;
    char head[header_bytes_max];
    Slice date = syslog_date();
    int size = std::snprintf(head, sizeof head, "<%d>%.*s %s%s%s: ", facility_ * 8 + severity,
                             int(date.size()), date.data(),
                             with_hostname_ ? hostname_.c_str() : "", with_hostname_ ? " " : "",
                             tag_.c_str());
    iovec parts[2] = {{head, size_t(size)}, {const_cast<char*>(text.data()), text.size()}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    if (::sendmsg(fd_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return;
    if (errno != EAGAIN && errno != EINTR) fd_.reset();
}

}  // namespace core
