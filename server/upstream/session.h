// UpstreamSession: one request's exchange with an upstream group: chooses a server, gets a
// connection (a kept one, or a new one), has the request written and the response read, asks the
// next server when that fails, and lets the body through to the client.
//
// What is spoken is the UpstreamProtocol's business (proxy's HTTP/1; memcached and others can be
// likewise). Made in the request's arena by the module that proxies; destroying it closes the
// connection and cancels whatever it waits for. The request never learns of the connection, nor
// this of the protocol the client speaks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/buffer.h"
#include "core/log.h"
#include "core/reactor.h"
#include "core/timer.h"
#include "server/http/request.h"
#include "server/upstream/balance.h"
#include "server/upstream/balancer.h"
#include "server/upstream/connection.h"
#include "server/upstream/group.h"
#include "server/upstream/group_metrics.h"
#include "server/upstream/relay.h"
#include "server/upstream/settings.h"
#include "server/upstream/states.h"
#include "server/upstream/tunnel.h"

namespace core {
class ResolveQuery;
class Resolver;
class TlsSession;
}

namespace server {

class UpstreamHandshake;

class UpstreamProtocol {
  public:
    enum class Head : uint8_t {
        incomplete,      // more bytes are needed
        complete,        // status() and what follows are valid
        interim,         // an answer that is not the final one (1xx): go on with what is left
        invalid,         // logged
    };
    enum class Body : uint8_t { more, complete, bad };

    // The request, whole but for a body that is still arriving. Called for each try. False: cannot
    // be made (logged): 500.
    virtual bool make_request(core::Chain& to) = 0;
    // A piece of a request body that is passed on as it arrives, with its framing.
    virtual void frame_body(core::Chain& piece, bool last) = 0;
    // The request has been changed since it was first made.
    virtual void recreate() = 0;
    // Forgets what was read of a response: a new try begins.
    virtual void reset() = 0;
    // Takes what it can from the front of `bytes`, which begin where the last call left them.
    virtual Head read_head(core::Slice& bytes) = 0;
    virtual int status() const = 0;
    virtual bool wants_tunnel() const = 0;         // 101, and the client asked for it
    // The response is taken: fills request.response. passed: send_header() follows; redirected: the
    // request goes elsewhere (X-Accel-Redirect); rejected: with that status instead; finished.
    virtual Verdict accept_head() = 0;
    // Takes the framing off: the next run of body bytes in `bytes`, empty when there is none left.
    virtual core::Slice next_body(core::Slice& bytes) = 0;
    virtual Body body_state() const = 0;
    virtual Body body_closed() = 0;                // the connection has ended
    virtual void body_complete() = 0;              // trailers
    virtual bool keeps_connection() const = 0;

  protected:
    ~UpstreamProtocol() = default;
};

// Where a request goes when no group has the name.
struct UpstreamHost {
    core::Slice host;                // a name, an address, or a path when is_unix
    int port = 0;
    bool is_unix = false;
};

class UpstreamSession final : public UpstreamConnection::User,
                              public BodyRelay::Owner,
                              public UpstreamTunnel::Owner,
                              public QueuedRequest {
  public:
    UpstreamSession(Request& request, const UpstreamSettings& settings,
                    UpstreamProtocol& protocol);
    ~UpstreamSession();

    // ---- for the module that proxies ----
    // Before start(): the scheme for log lines, the URI asked for, TLS or not.
    void describe(core::Slice scheme, core::Slice uri);
    // Begins; the request's body has been read, or is passed on as it comes (`streams_body`).
    // suspended, or how it ended at once.
    Verdict start(UpstreamGroup& group);
    Verdict start(const UpstreamHost& host);
    void use_tls() { tls_ = true; }
    void stream_body() { streams_body_ = passes_body_ = true; }
    // What the response says of its own delivery (X-Accel-…).
    void limit_rate(int64_t bytes_per_second) { limit_rate_ = bytes_per_second; }

    UpstreamState& state() { return *state_; }
    const core::LogContext& log() const { return log_; }
    BodyRelay& relay() { return relay_; }
    Request& request() { return request_; }
    const UpstreamSettings& settings() const { return settings_; }
    UpstreamGroup* group() const { return group_; }
    core::Slice connected_address() const;

    // ---- for the balancer ----
    void choice_made(Verdict verdict);
    BalancerState balancer_state();
    // Null while there is no connection.
    const core::Stream* stream() const { return connection_ ? &connection_->stream : nullptr; }

    // ---- for scripts of the TLS handshake ----
    UpstreamHandshake* handshake() const { return handshake_.get(); }
    void handshake_answered();

    // Ends it without a word to the request.
    void stop();

    void on_upstream_io(uint8_t ready) override;
    void on_relay_room() override;
    void on_relay_done() override;
    void on_room() override;
    void on_tunnel_end() override;
    void on_tunnel_moved() override;

  private:
    enum class At : uint8_t { idle, resolving, choosing, queued, connecting, handshaking, waiting,
                              reading, relaying, tunnel, over };

    // choosing (session_peer.cpp)
    Verdict begin();
    void resolved(const std::vector<core::Address>& addresses, int port);
    void begin_choice();
    void next_try();
    void choose_peer();
    void no_peer();
    bool enter_queue();
    void run_chooser();
    void leave_peer(TryEnd end);
    void leave_queue();
    void queue_too_long();
    void drop_table();
    void watch_client();
    const core::Address& peer_address() const;
    uint64_t identity();

    // connecting and sending (session.cpp)
    void connect();
    bool open(const core::Address& address);
    void not_opened(core::Fault fault, int error, const core::Address& address);
    void connected();
    void begin_tls();
    void go_on_tls();
    core::Slice tls_host();
    bool certificate_passes(core::TlsSession& session);
    void begin_request();
    void send();
    void sent();
    void pump_body(Verdict verdict);
    static void body_arrived(Request&, void* self, Verdict verdict);

    // reading (session_read.cpp)
    void receive();
    bool read(char* to, size_t room, size_t& size);
    void read_head();
    void take_head(core::Slice bytes);
    void head_too_big();
    void head_complete(core::Slice rest);
    bool ask_next_for_status();
    void read_body();
    void take_body(core::Slice bytes, core::Owner* owner);
    void closed_by_upstream(int error);
    void body_over(core::Chain&& last, bool clean);
    void store_response();
    void break_off();
    int64_t rate_room();

    // a tunnel (session_tunnel.cpp)
    void begin_tunnel(core::Slice rest);
    void tie();

    // the end (session.cpp)
    void fail(NextUpstream what, int error = 0);
    bool may_repeat(NextUpstream what) const;
    void finish_try();
    void release_connection(bool keep);
    void conclude(Verdict verdict);
    void client_left();
    int64_t timeout(int64_t configured, int64_t chosen) const;
    static void on_timeout(void* self);


    Request& request_;
    const UpstreamSettings& settings_;
    UpstreamProtocol& protocol_;
    UpstreamRecord& record_;
    UpstreamState* state_ = nullptr;
    core::LogContext& log_;          // the request's: its action says how far this is
    At at_ = At::idle;
    bool starting_ = false;          // inside start(): the verdict is returned, not resumed with
    bool streams_body_ = false;
    bool request_sent_ = false;      // some of it
    bool body_sent_ = false;         // all of it
    bool cached_ = false;            // a kept connection
    bool paused_ = false;            // the client must take something first
    bool receiving_ = false;
    bool reads_body_ = false;        // asked for more of the client's body
    bool tls_ = false;
    bool passes_body_ = false;       // the request body is not kept: no second try once it is sent
    bool protocol_gave_up_ = false;  // writing failed: only an answer may still come
    bool chosen_by_script_ = false;
    Verdict early_ = Verdict::suspend();

    UpstreamGroup* group_ = nullptr;
    PeerStore arena_store_;
    const PeerStore* store_ = nullptr;
    Choice choice_;
    PeerDecision decision_;
    LastFailure last_failure_ = LastFailure::none;
    int last_status_ = 0;
    UpstreamConnection::Ptr connection_;
    std::unique_ptr<UpstreamHandshake> handshake_;   // while scripts take part in one
    core::Chain out_;
    core::Slice head_;               // what has arrived of a head that is not whole yet
    core::Slice tls_name_;
    int64_t started_ms_ = 0;         // of the exchange, for next_upstream_timeout
    int64_t try_ms_ = 0;             // of this try
    TryClock clock_;                 // likewise
    int64_t limit_rate_ = 0;         // *_limit_rate
    core::Timer timer_;
    core::Timer rate_timer_;
    std::unique_ptr<core::ResolveQuery> query_;
    BodyRelay relay_;
    UpstreamTunnel* tunnel_ = nullptr;
    Request::Drain drain_;
};

}  // namespace server
