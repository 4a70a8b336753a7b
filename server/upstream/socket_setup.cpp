// Socket options before and after connect().
#include "server/upstream/socket_setup.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cerrno>

#include "core/log.h"
#include "core/text.h"
#include "server/http/request.h"
#include "server/upstream/settings.h"

namespace server {

namespace {

// The address to bind to; family AF_UNSPEC: none.
core::Address local_address_of(Request& request, const UpstreamSettings& settings,
                               core::Slice local) {
    core::Address address;
    if (local.empty() && settings.bind.is_set && !settings.bind->off) {
        local = settings.bind->address.evaluate(request);
    }
    if (local.empty()) return address;
    auto named = core::parse_host_port(local);
    if (!named || !core::Address::parse_ip(named->host, address)) {
        LOG(request.log, error, 0, "invalid local address \"%.*s\"", int(local.size()),
            local.data());
        return address;
    }
    address.set_port(named->port);
    return address;
}

void set_option(int fd, int level, int name, int value) {
    ::setsockopt(fd, level, name, &value, sizeof value);
}

}  // namespace

core::Result<core::Fd> open_upstream_socket(Request& request, const UpstreamSettings& settings,
                                            core::Slice local, const core::Address& address) {
    core::ConnectOptions options;
    core::Address from = local_address_of(request, settings, local);
    if (from.family() != AF_UNSPEC) options.bind = &from;
    options.transparent = settings.bind->transparent;
    auto fd = core::connect_to(address, options);
    if (!fd) return fd;
    if (settings.socket_keepalive) set_option(fd->get(), SOL_SOCKET, SO_KEEPALIVE, 1);
    if (int64_t size = settings.socket_receive_buffer->count) {
        set_option(fd->get(), SOL_SOCKET, SO_RCVBUF, int(size));
    }
    if (int64_t size = settings.socket_send_buffer->count) {
        set_option(fd->get(), SOL_SOCKET, SO_SNDBUF, int(size));
    }
    if (address.family() != AF_UNIX) set_option(fd->get(), IPPROTO_TCP, TCP_NODELAY, 1);
    return fd;
}

}  // namespace server
