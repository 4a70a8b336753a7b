// TlsWire: what OpenSSL reads and writes through, in place of its own socket BIO. A socket that was
// read empty is not asked again within one call; a handshake's messages are held and leave in one
// write; a record behind which more follows is sent so that the kernel may join them.
//
// Used by core/tls_session only. Knows nothing of what TLS makes of the bytes.
#pragma once

#include "core/socket.h"

struct bio_st;
struct bio_method_st;

namespace core {

class TlsSession;

struct TlsWire {
    // False: no memory. The BIO belongs to the session's SSL; forget() parts it from the session.
    static bool attach(TlsSession& session);
    static void forget(TlsSession& session);
    // Sends what is held. `done`: nothing is held any more.
    static IoResult push(TlsSession& session);

  private:
    static TlsSession* of(bio_st* bio);
    static int read(bio_st* bio, char* to, int room);
    static int write(bio_st* bio, const char* from, int bytes);
    static long control(bio_st* bio, int what, long number, void* argument);
    static ssize_t send_behind_held(TlsSession& session, const char* from, size_t bytes);
    static void drop_front(TlsSession& session, size_t bytes);
    static bool hold(TlsSession& session, const char* from, int bytes);
    static const bio_method_st* method();
};

}  // namespace core
