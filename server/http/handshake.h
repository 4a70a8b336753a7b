// Handshake: the part that scripts take in one connection's TLS handshake: which of them were
// asked, what they answered, and the wait for one that takes its time. Made for connections of
// servers that have such scripts, and kept by the session until that ends. modules/ssl.cpp makes
// contexts whose callbacks come here; TlsAccept holds still while a script is waited for. Knows no
// Lua: lua/handshake_by_lua.cpp is the one HandshakeScripts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

struct ssl_st;
struct ssl_ctx_st;
struct ssl_session_st;

namespace server {

class Connection;
class Handshake;
class TlsAccept;
struct VirtualServer;

// In the order they come. A resumed session has no certificate, one that is not kept no store.
enum class HandshakeStep : uint8_t { client_hello, session_fetch, certificate, session_store };
constexpr uint8_t handshake_bit(HandshakeStep step) { return uint8_t(1u << unsigned(step)); }

// wait: the script goes on later, Handshake::answer() says what came of it.
enum class HandshakeAnswer : uint8_t { none, go_on, fail, wait };

class HandshakeScripts {
  public:
    // The steps, as bits, that this server's configuration has scripts for. When it is loaded.
    virtual uint8_t steps_of(const VirtualServer& server) const = 0;
    // Called inside OpenSSL's callback: may ask the session, but not drive or end it. The answer of
    // session_store is not waited for.
    virtual HandshakeAnswer run(Handshake& handshake, HandshakeStep step) = 0;
    // Whether one that is waited for ends when the client leaves.
    virtual bool end_with_client(const VirtualServer& server) const = 0;

  protected:
    ~HandshakeScripts() = default;
};
// Null until set, before the configuration is read.
HandshakeScripts* handshake_scripts();
void set_handshake_scripts(HandshakeScripts& scripts);

class Handshake {
  public:
    // What the scripts keep of a connection; goes with it. Its destructor cancels what still runs.
    struct Data {
        virtual ~Data() = default;
    };

    // The one of a session, if it has one.
    static Handshake* of(const ssl_st* ssl);
    static Handshake& begin(ssl_st* ssl, TlsAccept& accept, const VirtualServer& server,
                            uint8_t steps);
    ~Handshake();
    Handshake(const Handshake&) = delete;
    Handshake& operator=(const Handshake&) = delete;

    // Makes the context's callbacks for these steps lead here (client_hello and session_fetch start
    // in the hello callback, which calls hello()).
    static void serve(ssl_ctx_st* context, uint8_t steps);
    // The result for OpenSSL's hello callback, however often it asks.
    int hello();

    // ---- for scripts ----

    ssl_st* ssl() const { return ssl_; }
    Connection* connection() const;          // null when the handshake is over
    // The one the hello names; the default one of the address takes the rest.
    const VirtualServer& server() const { return server_; }
    const VirtualServer& default_server() const { return default_server_; }
    // The id that is looked for or stored; empty before there is one.
    const std::string& session_id() const { return session_id_; }
    // The session at hand: the one to store, or what session_fetch has found.
    ssl_session_st* session() const { return session_; }
    // session_fetch: this session may be resumed. The reference becomes the handshake's.
    void offer(ssl_session_st* found);

    // A script that was waited for is done. May end the connection, and this object with it.
    void answer(HandshakeStep step, HandshakeAnswer given);

    std::unique_ptr<Data> data;

  private:
    friend class TlsAccept;
    Handshake(ssl_st* ssl, TlsAccept& accept, const VirtualServer& server, uint8_t steps);
    HandshakeAnswer ask(HandshakeStep step);
    bool names_session();
    static int choose_certificate(ssl_st* ssl, void*);
    static ssl_session_st* give_session(ssl_st* ssl, const unsigned char* id, int bytes, int* copy);
    static int store_session(ssl_st* ssl, ssl_session_st* fresh);
    void leave() { accept_ = nullptr; }      // the connection has gone on without it

    ssl_st* ssl_;
    TlsAccept* accept_;
    const VirtualServer& server_;
    const VirtualServer& default_server_;
    ssl_session_st* session_ = nullptr;
    std::string session_id_;
    uint8_t steps_;
    HandshakeAnswer answers_[4] = {};
};

}  // namespace server
