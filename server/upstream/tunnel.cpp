// Moving bytes both ways. One buffer serves all tunnels of the worker: only what the other side
// does not take at once is kept, and then its source is not read until that is gone.
#include "server/upstream/tunnel.h"

#include "core/tls.h"
#include "server/upstream/connection.h"

namespace server {

namespace {
constexpr size_t scratch_bytes = 64 * 1024;
char scratch[scratch_bytes];
}  // namespace

bool UpstreamTunnel::start(core::Slice from_client, core::Slice from_upstream) {
    if (!watch_.start(client_.fd(), *this)) return false;
    if (!from_client.empty()) to_upstream_.waiting.add_copy(from_client);
    if (!from_upstream.empty()) to_client_.waiting.add_copy(from_upstream);
    pump();
    return true;
}

void UpstreamTunnel::stop() {
    over_ = true;
    if (watch_.active()) watch_.stop_closing();
    if (client_.tls()) client_.tls()->shutdown();
    client_.close();
}

void UpstreamTunnel::on_io(uint8_t ready) {
    if (ready & core::ready_read) to_upstream_.readable = true;
    pump();
}

void UpstreamTunnel::on_upstream_io(uint8_t ready) {
    if (ready & core::ready_read) to_client_.readable = true;
    pump();
}

bool UpstreamTunnel::move(Direction& direction, core::Stream& from, core::Stream& to,
                          bool& broken) {
    bool moved = false;
    for (;;) {
        if (!direction.waiting.empty()) {
            core::IoResult sent = to.write(direction.waiting);
            direction.bytes += sent.bytes;
            moved = moved || sent.bytes > 0;
            if (sent.status == core::Io::failed || sent.status == core::Io::closed) broken = true;
            if (sent.status != core::Io::done) return moved;
        }
        if (!direction.readable || direction.ended) return moved;
        core::IoResult got = from.read(scratch, scratch_bytes);
        if (got.status == core::Io::again) {
            direction.readable = false;
            return moved;
        }
        if (got.status != core::Io::done) {
            direction.ended = true;
            return moved;
        }
        moved = true;
        core::Slice bytes{scratch, size_t(got.bytes)};
        core::IoResult sent = to.write(bytes);
        if (sent.status == core::Io::failed || sent.status == core::Io::closed) {
            broken = true;
            return moved;
        }
        direction.bytes += sent.bytes;
        bytes.remove_prefix(size_t(sent.bytes));
        if (!bytes.empty()) direction.waiting.add_copy(bytes);
    }
}

UpstreamTunnel::Counts UpstreamTunnel::counts() const {
    return {to_upstream_.bytes + to_upstream_.waiting.bytes(), to_client_.bytes,
            to_client_.bytes + to_client_.waiting.bytes(), to_upstream_.bytes};
}

// What a side has said to its end is the other one's end of reading. True: nothing more can come.
bool UpstreamTunnel::pass_on_ends() {
    if (ends_ == Ends::together) return to_client_.over() || to_upstream_.over();
    auto pass_on = [](Direction& direction, core::Stream& to) {
        if (!direction.over() || direction.passed_on) return;
        direction.passed_on = true;
        to.shutdown_write();
    };
    pass_on(to_client_, client_);
    pass_on(to_upstream_, upstream_.stream);
    return to_client_.over() && to_upstream_.over();
}

void UpstreamTunnel::pump() {
    if (over_) return;
    bool broken = false;
    bool moved = move(to_client_, upstream_.stream, client_, broken);
    moved = move(to_upstream_, client_, upstream_.stream, broken) || moved;
    if (broken || pass_on_ends()) {
        over_ = true;
        return owner_.on_tunnel_end();
    }
    if (moved) owner_.on_tunnel_moved();
}

}  // namespace server
