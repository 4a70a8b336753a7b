// What a server {} block's TLS configuration (modules/ssl.cpp) comes to, as connections and the
// router see it. Sessions of stream{} use it too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/slice.h"

struct ssl_st;

namespace core {
class TlsContext;
class TlsSession;
}  // namespace core

namespace server {

class Connection;
class TlsAccept;
struct VirtualServer;

struct ServerTls {
    std::shared_ptr<core::TlsContext> context;   // null: ssl_reject_handshake without certificates
    bool rejects = false;                        // ssl_reject_handshake
    std::string session_scope;                   // sessions of one scope may be resumed in it
    bool needs_certificate = false;              // of the client
    bool needs_valid = false;                    // when it has one
    uint8_t script_steps = 0;                    // of its handshakes (http/handshake.h)
    bool early_data = false;                     // ssl_early_data
};

// The server a session was negotiated for: by the name the client asked for, else the default one.
// Null before its hello was read.
const VirtualServer* negotiated_server(const core::TlsSession& session);

// Tells a new session whose handshake it is, so that its hello can choose among the servers of that
// address. Null: it is over.
void bind_session(core::TlsSession& session, TlsAccept* accept);

// The connection of a session whose handshake is not over; null afterwards.
Connection* handshaking_connection(const ssl_st* session);

// What the client showed, as its server demands it.
enum class ClientCertificate : uint8_t { good, refused, missing };
ClientCertificate judge_client(const core::TlsSession& session, const ServerTls& tls);

}  // namespace server
