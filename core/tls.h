// TLS on OpenSSL behind Stream's read and write. A TlsContext is the configuration shared by many
// sessions (certificates, protocols, ALPN, session cache); a TlsSession is one connection's state,
// owned by its Stream (Stream::set_tls). Nothing here blocks: a call that needs the socket first
// says `again`, and is made again when the descriptor is ready in the direction named by wants().
//
// Knows no HTTP and no configuration text. What is not offered here is done on the OpenSSL handles
// directly (native()).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/result.h"
#include "core/slice.h"
#include "core/socket.h"
#include "core/tls_idle.h"

struct ssl_st;
struct ssl_ctx_st;
struct ssl_session_st;
struct x509_st;

namespace core {

class TlsContext {
  public:
    enum class Role : uint8_t { server, client };

    static Result<std::shared_ptr<TlsContext>> create(Role role);
    ~TlsContext();
    TlsContext(const TlsContext&) = delete;
    TlsContext& operator=(const TlsContext&) = delete;

    // PEM. Errors carry OpenSSL's reasons, in nginx's form: `SSL_CTX_use_certificate(…) failed
    // (SSL: error:…)`. May be called once per key type. An encrypted key is tried with each of the
    // passwords; without any it is an error.
    Result<void> use_certificate_files(const std::string& chain, const std::string& key,
                                       const std::vector<std::string>& passwords = {});
    Result<void> use_certificate_pem(Slice chain, Slice key);
    Result<void> trust_file(const std::string& path);
    Result<void> trust_system();
    // Clients: refuse servers whose certificate is not trusted. Servers: demand one of the client.
    void verify_peer(bool on, int depth = 1);

    Result<void> set_ciphers(const std::string& list);
    // TLS1_2_VERSION and so on; 0: OpenSSL's own bound.
    void set_protocols(int least, int most);

    // Servers: the protocols spoken, best first ("h2", "http/1.1"); a client that offers none of
    // them gets the fatal alert no_application_protocol (RFC 7301 3.2). Clients: what is offered.
    void set_alpn(std::vector<std::string> protocols);

    // Servers: called during the handshake with the name the client asked for (empty for none),
    // after which the session has the returned context's certificates; null keeps this one's. The
    // session may be neither destroyed nor used from it.
    using ChooseContext = std::function<TlsContext*(Slice server_name)>;
    void on_server_name(ChooseContext choose);

    // Clients: called with each new ticket or session; the receiver owns one reference.
    using NewSession = std::function<void(TlsSession& session, ssl_session_st* resumable)>;
    void on_new_session(NewSession keep);

    Role role() const { return role_; }
    ssl_ctx_st* native() const { return context_; }

  private:
    friend class TlsSession;
    friend struct TlsCallbacks;
    explicit TlsContext(Role role) : role_(role) {}

    Role role_;
    ssl_ctx_st* context_ = nullptr;
    std::vector<std::string> alpn_names_;
    std::string alpn_wire_;
    ChooseContext choose_;
    NewSession keep_;
};

class TlsSession {
  public:
    // For a connected descriptor, which stays the Stream's. Null when OpenSSL has no memory.
    static TlsSessionPtr create(std::shared_ptr<TlsContext> context, int fd);
    ~TlsSession();
    TlsSession(const TlsSession&) = delete;
    TlsSession& operator=(const TlsSession&) = delete;

    // Clients, before the handshake: the name sent as SNI, and the one the certificate must carry
    // (with verify_peer). An IP address is checked but not sent.
    Result<void> set_server_name(const std::string& name);
    Result<void> check_name(const std::string& name);
    void resume(ssl_session_st* session);

    // done: the handshake is over. read and write do the handshake too when it is not. A caller
    // that knows that the peer has not closed its side (Ready) saves looking for that.
    enum class Peer : uint8_t { may_have_closed, is_there };
    IoResult handshake(Peer peer = Peer::may_have_closed);
    // handshake() for a caller that uses the session at once when it is done: what is then still to
    // be said (tickets) goes with the first answer, and the first read believes what the handshake
    // saw of the socket. When that use is over say_rest() must follow.
    IoResult handshake_before_use(Peer peer);
    void say_rest();
    IoResult read(char* to, size_t room);
    IoResult write(Slice bytes);
    // As Stream::write: consumes what went. Small pieces share a record.
    IoResult write(Chain& chain, int64_t bytes_max);
    // Says close_notify; done when it is sent (the peer's answer is not waited for).
    IoResult shutdown();

    // What the last `again` waits for. A read may want to write, and the other way round.
    enum class Wants : uint8_t { read, write };
    Wants wants() const { return wants_; }

    bool established() const;
    // Servers whose context takes early data (SSL_CTX_set_max_early_data): the handshake was `done`
    // with the first of it, which anybody may have recorded and sent again. Reads and writes work,
    // and see to the rest of the handshake; it is over when the session is established.
    bool took_early_data() const { return early_ >= Early::reading; }
    bool resumed() const;
    Slice alpn() const;                  // what was agreed; empty for none
    Slice server_name() const;           // SNI; empty for none
    const char* protocol() const;        // "TLSv1.3"
    const char* cipher() const;
    // Bytes decrypted and waiting: the descriptor will not become readable for them.
    size_t pending() const;
    // Right after handshake() or read(): that call has left nothing to be read.
    bool drained() const;
    // X509_V_OK (0), or why the peer's certificate was refused.
    long verify_result() const;
    std::string verify_error() const;
    // OpenSSL's reasons for the last failure, " (SSL: error:0A000086:SSL routines::certificate
    // verify failed)"; empty when the failure was the socket's.
    const std::string& error_text() const { return error_text_; }

    // Good until the loop's turn ends, or as long as the session when it is pinned.
    ssl_st* native() const { return ssl_; }
    ssl_st* pinned() {
        ssl_.pin();
        return ssl_;
    }
    static ssl_st* pin(ssl_st* native);  // of a session, or shared; null stays null
    // The same, for whoever asks about the connection when the session is elsewhere or has gone: by
    // TlsHandle::awake().
    std::shared_ptr<ssl_st> share();

  private:
    friend struct TlsCallbacks;
    friend struct TlsWire;
    TlsSession() = default;
    IoResult outcome(int result, int saved_errno);
    IoResult begin_early_data();
    IoResult read_early_data(char* to, size_t room);
    IoResult handshake_step();
    IoResult conclude_handshake(IoResult moved);
    IoResult write_some(const char* from, size_t bytes);
    IoResult write_gathered(Chain& chain, int64_t limit);
    IoResult write_file(Chain& chain, int64_t limit);

    TlsHandle ssl_;
    std::shared_ptr<TlsContext> context_;
    size_t unsent_ = 0;                  // bytes of the record OpenSSL wants to be given again
    Chunk* held_ = nullptr;              // what a handshake has to say, until all of it is known
    int fd_ = -1;
    Wants wants_ = Wants::read;
    // RFC 8446 4.2.10. reading: more of it may come; over: the client said that this was all.
    enum class Early : uint8_t { none, untried, reading, over } early_ = Early::none;
    bool early_byte_held_ = false;
    char early_byte_ = 0;                // the one that begin_early_data() had to take
    bool failed_ = false;
    // Within one call: what the last read of the socket said. A short one leaves nothing but,
    // perhaps, the end.
    enum class Input : uint8_t { unknown, short_read, empty };
    Input input_ = Input::unknown;
    bool ended_ = false;                 // the peer has closed its side
    bool holding_ = false;
    bool in_use_ = false;                // between handshake_before_use() and say_rest()
    bool more_follows_ = false;          // behind the record that is being written
    std::string error_text_;
};

// The path of the file that a context has a certificate from; empty when it came otherwise.
std::string certificate_name(const x509_st* certificate);

// The reasons waiting in OpenSSL's queue of this thread, as nginx prints them behind a message:
// " (SSL: error:…)"; empties the queue.
std::string take_tls_errors();

}  // namespace core
