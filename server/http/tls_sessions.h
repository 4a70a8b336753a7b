// Resuming TLS sessions: a cache that all workers share (ssl_session_cache shared:…), and the keys
// of tickets: from files (ssl_session_ticket_key), or made by ourselves, renewed as time goes by
// and kept in the shared memory of a cache, where they outlive a reload. Called by modules/ssl.cpp;
// knows no directives.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/result.h"
#include "core/slice.h"

namespace core {
class ShmZone;
}
struct ssl_ctx_st;

namespace server {

// What a ticket is sealed with.
struct TicketKey {
    unsigned char name[16];
    unsigned char hmac[32];
    unsigned char aes[32];
    size_t key_bytes;              // 16 or 32
    int64_t needed_until_s;        // wall clock: when the last ticket made with it is too old
};

class TlsSessionCache {
  public:
    TlsSessionCache(core::Slice name, size_t bytes) : name_(name), bytes_(bytes) {}

    const std::string& name() const { return name_; }
    size_t bytes() const { return bytes_; }

    // Finds the living zone or makes one; in the master.
    core::Result<void> open();
    // From now on sessions of this context are kept here and found here.
    void serve(ssl_ctx_st* context);

    // In DER. The newest push the oldest out.
    void put(core::Slice id, core::Slice session, int64_t expires_s);
    std::string get(core::Slice id);       // empty: not known, or too old
    void remove(core::Slice id);

    // The keys of tickets now: the first makes new ones, which live for `lifetime_s`, both open old
    // ones. Makes them, and replaces them in good time.
    static constexpr size_t ticket_key_count = 2;
    void ticket_keys(TicketKey (&to)[ticket_key_count], int64_t now_s, int64_t lifetime_s);

  private:
    struct Entry;
    struct Root;
    static void make_root(core::ShmZone& zone);
    static Entry** find(Root& root, core::Slice id);
    void drop(Root& root, Entry** at);

    std::string name_;
    size_t bytes_;
    std::shared_ptr<core::ShmZone> zone_;
};

// Files of 48 or 80 bytes: a name, a key for AES and one for HMAC. The first makes new tickets, all
// of them open old ones. Without files the keys are those of the cache, which must be open() by the
// time of the first handshake.
core::Result<void> use_ticket_keys(ssl_ctx_st* context, const std::vector<std::string>& paths,
                                   std::shared_ptr<TlsSessionCache> own);

}  // namespace server
