// TlsAccept: a client connection until its TLS handshake is over, when HTTP takes over the socket.
// A PROXY protocol header in front of the handshake is read here, and a client that speaks HTTP in
// the clear is noticed by its first byte.
#pragma once

#include "server/http/connection.h"

namespace server {

class ClientStatusCheck;

class TlsAccept final : public Connection {
  public:
    TlsAccept(Worker& worker, ListenAddress& listen, core::Fd fd, const core::Address& peer);
    ~TlsAccept() override;

    bool begin();     // starts watching; false: the connection is of no use

    void on_io(uint8_t ready) override;
    void close(bool reset = false) override;
    void drain() override {}                      // client_header_timeout ends it soon enough
    bool idle() const override { return false; }
    core::Stream detach(std::string& leftover) override;

    // A script takes part in the handshake and takes its time (Handshake): unless the client may
    // end it by leaving, until it is done.
    void wait_for_script(bool client_may_end) {
        waits_for_script_ = true;
        client_may_end_ = client_may_end;
    }
    void script_answered();

  private:
    enum class State : uint8_t { proxy_header, first_byte, handshake, client_status, over };

    void advance();
    bool take_proxy_header();
    bool look_at_first_byte();
    void shake_hands();
    bool waits_for_status();
    void hand_over(bool may_have_input = true);
    void end_if_left();
    void leave_handshake();
    static void on_timeout(void* self);

    State state_ = State::first_byte;
    bool waits_for_script_ = false;
    bool client_may_end_ = false;
    bool hung_up_ = false;                        // the client has closed its side
    core::Timer timer_;
    std::unique_ptr<ClientStatusCheck> status_check_;
};

}  // namespace server
