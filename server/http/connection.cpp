// What all protocols' connections share.
#include "server/http/connection.h"

#include <sys/socket.h>

#include "core/clock.h"
#include "server/config.h"
#include "server/http/core_conf.h"
#include "server/http/h1.h"
#include "server/http/proxy_header.h"
#include "server/http/tls_accept.h"
#include "server/stream/blocks.h"
#include "server/worker.h"

namespace server {

namespace {

void describe_connection(const void* subject, core::LogLine& line) {
    const auto& connection = *static_cast<const Connection*>(subject);
    char room[128];
    line.append(", client: ");
    line.append(connection.peer.ip_into(room, sizeof room));
    line.append(", server: ");
    line.append(connection.listen.text);
}

}  // namespace

Connection::Connection(Worker& by, ListenAddress& on, core::Fd fd, const core::Address& from)
    : stream(std::move(fd)),
      worker(by),
      listen(on),
      peer(from),
      serial(by.next_serial()),
      opened_ms(core::Clock::wall_ms()),
      destruction_([](void* it) { delete static_cast<Connection*>(it); }, this) {
    log = core::process_log();
    const auto* error_log = listen.stream ? &listen.stream->conf->error_log
                                          : &listen.default_server->root.core->error_log;
    if (*error_log) log.log = error_log->get();
    log.connection = serial;
    log.describe = describe_connection;
    log.subject = this;
    worker.connection_began(*this);
}

Connection::Connection(Connection& from)
    : stream(std::move(from.stream)),
      worker(from.worker),
      listen(from.listen),
      peer(from.peer),
      log(from.log),
      serial(from.serial),
      opened_ms(from.opened_ms),
      tls(from.tls),
      proxy(std::move(from.proxy)),
      local_(std::move(from.local_)),
      destruction_([](void* it) { delete static_cast<Connection*>(it); }, this) {
    log.action = nullptr;
    log.subject = this;
    worker.connection_taken_over(*this);
}

Connection::~Connection() { worker.connection_ended(*this); }

const core::Address& Connection::local() {
    if (!local_) local_ = std::make_unique<core::Address>(core::local_address(stream.fd()));
    return *local_;
}

void Connection::accept(Worker& worker, ListenAddress& listen, core::Fd fd,
                        const core::Address& peer) {
    if (listen.ssl) {
        auto* connection = new TlsAccept(worker, listen, std::move(fd), peer);
        if (!connection->begin()) connection->close();
        return;
    }
    auto* connection = new H1(worker, listen, std::move(fd), peer);
    if (!connection->begin()) connection->close();
}

}  // namespace server
