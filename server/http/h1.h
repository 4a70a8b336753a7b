// H1: a client connection that speaks HTTP/1.1 or 1.0, and the exchange of the request it serves.
// One request is served at a time; requests that arrive meanwhile wait in the input. Answers gather
// in the output and leave in one write: of what one read brought, or at the end of the loop turn.
#pragma once

#include <cstdint>
#include <string>

#include "core/buffer.h"
#include "server/http/connection.h"
#include "server/http/exchange.h"
#include "server/http/h1_head.h"

namespace server {

// Bytes that have arrived and are not used yet, in one run.
class InputBuffer {
  public:
    ~InputBuffer() { clear(); }
    core::Slice bytes() const { return {data_ + begin_, end_ - begin_}; }
    bool empty() const { return begin_ == end_; }
    void append(core::Slice bytes);
    void consume(size_t count);
    void clear();

  private:
    char* data_ = nullptr;
    uint32_t begin_ = 0, end_ = 0, capacity_ = 0;
};

class H1 final : public Connection, public Exchange {
  public:
    H1(Worker& worker, ListenAddress& listen, core::Fd fd, const core::Address& peer);
    explicit H1(Connection& accepted);     // whose handshake is over
    ~H1();

    // Connection
    void on_io(uint8_t ready) override;
    void close(bool reset = false) override;
    void drain() override;
    bool idle() const override { return state_ == State::idle && input_.empty(); }
    core::Stream detach(std::string& leftover) override;

    // Exchange
    void send_head(Request&) override;
    void send_interim(Request&, int status) override;
    void send_body(Request&, core::Chain&& body) override;
    void send_text(Request&, core::Slice text, bool last) override;
    int64_t pending_bytes() const override { return pending_; }
    void flush(Request&) override;
    bool settle(Request&) override;
    void want_body(Request&, bool wanted) override;
    void request_done(Request&, bool cut) override;

    bool begin();     // starts watching; false: the connection is of no use
    // Takes bytes as if they had been read from the socket.
    void receive(core::Slice bytes);

  private:
    enum class State : uint8_t {
        idle,            // between requests, or a head has not arrived whole
        serving,         // a request is being answered
        draining_body,   // answered, but its body is still arriving
        closing,         // the rest of the output, then the end
        lingering,       // our side is shut; what still arrives is thrown away
        closed,
    };

    // input (h1.cpp)
    void read_input();
    bool wants_input() const;
    size_t process(core::Slice bytes);
    size_t take_proxy_header(core::Slice bytes);
    size_t take_head(core::Slice bytes);
    size_t feed_body(core::Slice bytes);
    void start_request(core::Slice bytes);
    void refuse_head(core::Slice bytes, int status, const char* why);
    void refuse_clear_text(Request&);
    Request* new_request(core::Slice bytes);
    void count_reading(bool on);
    void body_failed(int status);
    void input_ended(bool failed);
    HeadLimits limits() const;
    static void on_read_timeout(void* self);

    // the end of a request (h1.cpp)
    void request_over();
    void go_on();
    void go_idle(int64_t timeout_ms);
    void finish_closing();
    bool unfinished_handshake() const;
    void linger();

    // output (h1_write.cpp)
    void schedule_flush();
    void flush_output();
    void output_gone();
    int64_t rate_allows();
    int64_t chunk_max() const;
    static void on_write_timeout(void* self);
    void put_small_body(Request&, const core::Chain& body, int64_t bytes, bool last);
    void put_body(Request&, core::Chain&& body, int64_t bytes, bool last);
    void add_body(core::Chain&& body);
    void body_queued(Request&, int64_t bytes, bool last);
    void put_chunk_end(Request&);
    bool decide_keep_alive(Request&) const;

    State state_ = State::idle;
    bool readable_ = false;         // the socket may hold more than was read
    bool peer_closed_ = false;
    bool wants_body_ = false;
    bool processing_ = false;       // inside process(): a request may end under it
    bool request_over_ = false;
    bool cut_ = false;
    bool write_blocked_ = false;
    bool rate_delayed_ = false;
    bool waiting_drain_ = false;    // settle() said no
    bool holds_request_memory_ = false;
    bool awaits_handshake_ = false; // lingering until the client has answered our part of it
    bool must_linger_ = false;      // the client may still be sending what we refused
    bool settling_ = false;
    int64_t pending_ = 0;           // bytes in output_
    int64_t body_left_ = 0;         // of a Content-Length body
    bool reading_ = false;           // counted as such
    bool between_requests_ = false;  // not a byte of the next head yet
    Request* request_ = nullptr;
    llhttp__internal_s* parser_ = nullptr;      // of a chunked body; in the request's arena
    HeadScan scan_;
    const HeadMemo::Entry* usual_ = nullptr;    // the header block of the request before
    InputBuffer input_;
    core::Slice rest_;              // what process() has not come to yet
    core::Chain output_;
    core::Timer read_timer_;
    core::Timer write_timer_;
    core::Deferred flush_;
    core::Deferred go_on_;
};

}  // namespace server
