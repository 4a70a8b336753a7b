// UpstreamExchange: one request to an upstream server over HTTP/1: resolve, connect, send, read the
// head, pass the body on. Owned by whoever proxies (in the request's arena); destroying it closes
// the connection and cancels whatever it waits for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/log.h"
#include "core/reactor.h"
#include "core/socket.h"
#include "core/timer.h"
#include "server/upstream/response_parser.h"

namespace core {
class ResolveQuery;
class Resolver;
}

namespace server {

struct UpstreamTarget {
    std::string host;              // a name, an IP literal, or a path when is_unix
    int port = 80;
    bool is_unix = false;
};

struct UpstreamOptions {
    int64_t connect_timeout_ms = 60000;
    int64_t send_timeout_ms = 60000;
    int64_t read_timeout_ms = 60000;
    size_t head_bytes_max = 4096;
    bool head_request = false;
};

class UpstreamExchange final : public core::IoHandler {
  public:
    // All calls come from the loop; none may destroy the exchange, but each may end the request
    // that owns it, because that is destroyed later.
    class Client : public ResponseParser::Receiver {
      public:
        // It is over: complete, or broken off after the head (`complete` false).
        virtual void on_upstream_end(bool complete) = 0;
        // No response: 502 or 504. Logged already.
        virtual void on_upstream_failure(int status) = 0;
        // May the next piece be read? Asked after each one; call resume() later when not.
        virtual bool wants_more() = 0;

      protected:
        ~Client() = default;
    };

    UpstreamExchange(Client& client, const core::LogContext& log, const UpstreamOptions& options);
    ~UpstreamExchange();

    void start(const UpstreamTarget& target, core::Resolver& resolver, core::Chain&& request);
    void resume();                 // after wants_more() said no
    void stop();                   // closes; the client hears no more

    const core::Address& address() const { return address_; }
    int64_t started_ms() const { return started_ms_; }
    int64_t bytes_received() const { return bytes_received_; }

    void on_io(uint8_t ready) override;

  private:
    enum class At : uint8_t { idle, resolving, connecting, exchanging, over };

    void resolved(const std::vector<core::Address>& addresses, int port);
    void connect();
    void connected();
    void send();
    void receive();
    void received(core::Slice bytes);
    void closed_by_upstream(int error);
    void end(bool complete);
    void fail(int status);
    static void on_timeout(void* self);

    Client& client_;
    core::LogContext log_;         // action says what is being done
    UpstreamOptions options_;
    At at_ = At::idle;
    bool readable_ = false;
    bool paused_ = false;
    bool receiving_ = false;
    core::Stream stream_;
    core::Watch watch_;
    core::Timer timer_;
    core::Deferred later_;
    core::Chain request_;
    core::Address address_;
    std::vector<core::Address> candidates_;
    std::unique_ptr<core::ResolveQuery> query_;
    ResponseParser parser_;
    int64_t started_ms_ = 0;
    int64_t bytes_received_ = 0;
};

}  // namespace server
