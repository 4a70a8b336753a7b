// ControlServer: the control sockets and their clients: who may connect, requests read and answers
// written, none of it blocking. What requests mean is control.cpp's.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "core/reactor.h"
#include "core/result.h"
#include "core/socket.h"
#include "core/timer.h"
#include "server/control/http_reader.h"

namespace server {

class ControlServer;

// One `control_socket` or `control_listen`.
struct ControlAddress {
    std::string path;                      // of a Unix socket, absolute; else empty
    core::Address address;
    std::string token;                     // TCP: what a client must name
};

struct ControlAnswer {
    int status = 200;
    std::string body;                      // JSON
    uint64_t etag = 0;                     // 0: none
    const char* allow = nullptr;           // of a 405
};

class ControlConnection final : public core::IoHandler,
                                public std::enable_shared_from_this<ControlConnection> {
  public:
    static constexpr int64_t usual_idle_ms = 60'000;

    // `idle_ms`: between requests, for a head, and between bytes of all else.
    ControlConnection(ControlServer& server, core::Fd fd, std::string token,
                      int64_t idle_ms = usual_idle_ms);
    void begin();
    // The request is answered; the next one is read after that.
    void answer(const ControlAnswer& answer);
    void close();
    void forget() { stream_.close(); }
    bool wants_token() const { return !token_.empty(); }

  private:
    void on_io(uint8_t ready) override;
    void read();
    void proceed();
    void write();
    bool takes_more() const { return !busy_ && !closing_ && !ended_ && out_.empty(); }
    bool allowed(const ControlRequest& request) const;
    void turn_away();
    static void on_timeout(void* self);

    ControlServer& server_;
    core::Stream stream_;
    core::Watch watch_;
    core::Timer timer_;
    const std::string token_;
    const int64_t idle_ms_;
    ControlHttp http_;
    std::string in_, out_;
    size_t sent_ = 0;
    bool begun_ = false;                   // bytes of a request have come
    bool busy_ = false;                    // a request waits for its answer
    bool proceeding_ = false;
    bool closing_ = false;                 // when all is written
    bool ended_ = false;
};

class ControlServer {
  public:
    using Handler = std::function<void(const std::shared_ptr<ControlConnection>& connection,
                                       const ControlRequest& request)>;
    explicit ControlServer(Handler handler) : handler_(std::move(handler)) {}
    ~ControlServer();

    // Binds what `wanted` names and is not bound yet; it answers once commit() has been called.
    // On failure everything is as before. `take_over`: the sockets may be another server's that
    // this one follows (a new binary).
    core::Result<void> open(const std::vector<ControlAddress>& wanted, bool take_over);
    core::Result<void> commit();
    void roll_back();

    core::Result<void> start();            // answers on this thread's reactor
    void stop();                           // no more; the sockets stay open
    void close_all();                      // and the files of Unix sockets go
    void forget();                         // in a forked process: descriptors go, nothing else
    // Files of Unix sockets that another process has put in place of ours are made anew.
    void reclaim();

    bool open() const { return !held_.empty(); }
    std::string description() const;       // "unix:/x, 127.0.0.1:81"

  private:
    friend class ControlConnection;
    struct Listener : core::IoHandler {
        ControlServer* server = nullptr;
        ControlAddress at;
        core::Fd fd;
        core::Watch watch;
        core::Timer retry{[](void* it) { static_cast<Listener*>(it)->listen_again(); }, this};
        uint64_t device = 0, inode = 0;    // of the socket's file
        bool wanted = false, fresh = false;
        void on_io(uint8_t ready) override;
        void listen_again();
        core::Result<void> bind(bool take_over);
        core::Result<void> publish();
        bool is_ours() const;
    };
    void remove_files();
    void accept_from(Listener& listener);
    void ended(ControlConnection& connection);

    Handler handler_;
    std::list<Listener> held_;
    std::list<std::shared_ptr<ControlConnection>> connections_;
    bool running_ = false;
};

}  // namespace server
