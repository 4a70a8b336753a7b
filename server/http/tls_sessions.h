// Resuming TLS sessions: a cache that all workers share (ssl_session_cache shared:…), and the keys
// of tickets from files (ssl_session_ticket_key). Called by modules/ssl.cpp; knows no directives.
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
// of them open old ones.
core::Result<void> use_ticket_keys(ssl_ctx_st* context, const std::vector<std::string>& paths);

}  // namespace server
