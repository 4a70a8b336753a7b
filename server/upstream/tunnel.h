// UpstreamTunnel: the bytes of client and upstream go both ways unseen, until one side ends: after
// a 101 and in stream{}. Owned by upstream/session or stream/session, which has handed it the
// client's socket; the upstream's stays the session's, and so does the clock.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "core/reactor.h"
#include "core/socket.h"

namespace server {

class UpstreamConnection;

class UpstreamTunnel final : public core::IoHandler {
  public:
    class Owner {
      public:
        // Over. Called from the loop, once; the owner destroys it later.
        virtual void on_tunnel_end() = 0;
        virtual void on_tunnel_moved() = 0;        // something went through: timers begin anew

      protected:
        ~Owner() = default;
    };

    // Is it over with the first side that ends, or is that passed on, and the other one goes on?
    enum class Ends : uint8_t { together, each };

    UpstreamTunnel(Owner& owner, core::Stream client, UpstreamConnection& upstream,
                   Ends ends = Ends::together)
        : owner_(owner), client_(std::move(client)), upstream_(upstream), ends_(ends) {}
    ~UpstreamTunnel() { stop(); }

    // Bytes that came behind the heads, of either side, go first. False: it cannot be watched.
    bool start(core::Slice from_client, core::Slice from_upstream);
    void stop();
    void on_io(uint8_t ready) override;            // the client's
    void on_upstream_io(uint8_t ready);

    int64_t bytes_to_client() const { return to_client_.bytes; }
    int64_t bytes_to_upstream() const { return to_upstream_.bytes; }
    bool upstream_ended() const { return to_client_.ended; }
    struct Counts {
        long long from_client = 0, to_client = 0, from_upstream = 0, to_upstream = 0;
    };
    Counts counts() const;

  private:
    struct Direction {
        core::Chain waiting;                       // read, not yet written
        int64_t bytes = 0;                         // written
        bool readable = true;                      // its source may have more
        bool ended = false;                        // its source has said so
        bool passed_on = false;                    // and so was its destination told

        bool over() const { return ended && waiting.empty(); }
    };
    void pump();
    bool pass_on_ends();
    // True: something moved. `broken` is set when either side is gone.
    bool move(Direction& direction, core::Stream& from, core::Stream& to, bool& broken);

    Owner& owner_;
    core::Stream client_;
    core::Watch watch_;
    UpstreamConnection& upstream_;
    const Ends ends_;
    Direction to_client_, to_upstream_;
    bool over_ = false;
};

}  // namespace server
