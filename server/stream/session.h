// StreamSession: a client connection of stream{}: its TLS handshake when it has one, then its bytes
// go to an upstream server and back, or it is told a text. Made by the Listener; a Connection of
// the worker's like those of HTTP, of which it knows nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/http/connection.h"
#include "server/upstream/balance.h"
#include "server/upstream/connection.h"
#include "server/upstream/tunnel.h"

namespace server {

struct StreamConf;
struct StreamTarget;

class StreamSession final : public Connection,
                            public UpstreamConnection::User,
                            public UpstreamTunnel::Owner {
  public:
    // Adopts an accepted socket and begins.
    static void accept(Worker& worker, ListenAddress& listen, core::Fd fd,
                       const core::Address& peer);
    ~StreamSession() override;

    void on_io(uint8_t ready) override;          // the client's, until bytes are passed on
    void close(bool reset = false) override;
    void drain() override {}                     // its two ends decide how long it lasts
    bool idle() const override { return false; }
    core::Stream detach(std::string& leftover) override;

  private:
    enum class State : uint8_t { handshake, connecting, proxying, telling, over };

    StreamSession(Worker& worker, ListenAddress& listen, core::Fd fd, const core::Address& peer);
    void begin();
    bool begin_tls();
    void shake_hands();
    bool is_acceptable(const core::TlsSession& session);
    void run_handler();
    void tell();
    void begin_proxy();
    void next_try();
    void connect(const Peer& peer);
    void connected();
    void try_failed();
    void leave_peer(TryEnd end);
    void on_upstream_io(uint8_t ready) override;
    void on_tunnel_end() override;
    void on_tunnel_moved() override;
    static void on_timeout(void* self);
    static void describe(const void* subject, core::LogLine& line);

    const StreamConf& conf_;
    State state_;
    core::Timer timer_;
    core::Chain text_;                           // of `return`, what is left of it
    const StreamTarget* target_ = nullptr;
    Choice choice_;
    std::vector<uint64_t> tried_;
    std::string upstream_name_;                  // as the log has it
    UpstreamConnection::Ptr upstream_;
    std::unique_ptr<UpstreamTunnel> tunnel_;
};

}  // namespace server
