// Exchange: the protocol's side of one request. The request does not know which protocol version
// carried it: HTTP/1 is one implementation, a captured or a postponed subrequest are others,
// HTTP/2 and HTTP/3 streams plug in here.
#pragma once

#include <cstdint>

#include "core/buffer.h"
#include "server/verdict.h"

namespace server {

class Request;

class Exchange {
  public:
    // Serialises status line and header fields. Called once, after the header filters.
    virtual void send_head(Request&) = 0;
    // An interim answer (100, 103); called before send_head().
    virtual void send_interim(Request&, int status) = 0;
    // Takes a piece of the body, after the body filters. A buffer with Buffer::last ends it.
    virtual void send_body(Request&, core::Chain&& body) = 0;
    // The same for a text of at most text_bytes_max that is copied at once; `last`: the body ends.
    static constexpr size_t text_bytes_max = 4096;
    virtual void send_text(Request& request, core::Slice text, bool last) {
        core::Chain body;
        if (!text.empty()) body.add_copy(text);
        if (last) body.add_mark(core::Buffer::last);
        send_body(request, std::move(body));
    }
    // Bytes accepted but not yet given to the peer (back-pressure).
    virtual int64_t pending_bytes() const = 0;
    // Pushes out what is pending now rather than at the end of the turn.
    virtual void flush(Request&) = 0;

    // The response is complete. True: the request may end at once, nothing pending refers to its
    // memory. False: request.drained() will be called when that is so.
    virtual bool settle(Request&) = 0;

    // The request body. Bytes are handed to request.body by RequestBody::receive(); this asks for
    // more of them, and stops asking.
    virtual void want_body(Request&, bool wanted) = 0;

    // The request is over: log phase done, response queued as a whole. The exchange destroys the
    // request, never before the caller has returned to the loop. `cut`: the response was broken off
    // and the connection must not be reused.
    virtual void request_done(Request&, bool cut) = 0;

  protected:
    ~Exchange() = default;
};

}  // namespace server
