// Connection: one client's connection, whatever is spoken on it. Protocols (http/h1.h, later
// HTTP/2) derive from it. Owned by the worker, destroyed at the end of a loop turn.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/list.h"
#include "core/log.h"
#include "core/reactor.h"
#include "core/socket.h"
#include "core/timer.h"

struct ssl_st;

namespace server {

struct ListenAddress;
struct ProxyHeader;
class Worker;

class Connection : public core::ListNode, public core::IoHandler {
  public:
    // Adopts an accepted socket; begins reading. Null when it cannot be watched.
    static void accept(Worker& worker, ListenAddress& listen, core::Fd fd,
                       const core::Address& peer);

    core::Stream stream;
    core::Watch watch;
    Worker& worker;
    ListenAddress& listen;
    core::CompactAddress peer;         // may be replaced by realip or PROXY protocol
    core::LogContext log;
    uint64_t serial;                   // *N in the error log, $connection
    uint32_t requests = 0;             // $connection_requests
    int64_t opened_ms;                 // wall clock
    bool tls = false;
    std::shared_ptr<ssl_st> detached_tls;   // what $ssl_* tell of once the socket was taken away
    std::unique_ptr<ProxyHeader> proxy;   // what a PROXY protocol header said; null without one

    const core::Address& local();      // the address the client connected to (asked for once)

    // Ends it: reset sends RST rather than FIN. Destroyed at the end of the turn.
    virtual void close(bool reset = false) = 0;
    // The worker is leaving: idle connections close (after a grace), others after their response.
    virtual void drain() = 0;
    virtual bool idle() const = 0;
    // Takes the socket away from HTTP (a tunnel, ngx.req.socket(true)): bytes read but not used
    // are in `leftover`.
    virtual core::Stream detach(std::string& leftover) = 0;

  protected:
    Connection(Worker& worker, ListenAddress& listen, core::Fd fd, const core::Address& peer);
    // Goes on with another's socket, under its number; `from` is left without one.
    explicit Connection(Connection& from);
    virtual ~Connection();

    std::unique_ptr<core::Address> local_;
    core::Deferred destruction_;
};

}  // namespace server
