// TLS behind Stream: both roles over a socket pair.
#include "core/tls.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

namespace {

using namespace core;

struct Identity {
    std::string certificate, key;
};

std::string pem_of(BIO* bio) {
    char* data;
    long size = BIO_get_mem_data(bio, &data);
    std::string text(data, size_t(size));
    BIO_free(bio);
    return text;
}

Identity make_identity(const char* name) {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* x509 = X509_new();
    X509_set_version(x509, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    X509_NAME* subject = X509_get_subject_name(x509);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
    X509_set_issuer_name(x509, subject);
    X509_sign(x509, key, EVP_sha256());
    BIO* out = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(out, x509);
    Identity made;
    made.certificate = pem_of(out);
    out = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
    made.key = pem_of(out);
    X509_free(x509);
    EVP_PKEY_free(key);
    return made;
}

struct TlsTest : testing::Test {
    Identity identity = make_identity("one.test");
    std::shared_ptr<TlsContext> server_context, client_context;
    Stream server, client;

    void SetUp() override {
        std::signal(SIGPIPE, SIG_IGN);
        server_context = *TlsContext::create(TlsContext::Role::server);
        client_context = *TlsContext::create(TlsContext::Role::client);
        ASSERT_TRUE(server_context->use_certificate_pem(identity.certificate, identity.key));
    }
    void connect() {
        int fds[2];
        ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
        server = Stream(Fd(fds[0]));
        client = Stream(Fd(fds[1]));
        server.set_tls(TlsSession::create(server_context, fds[0]));
        client.set_tls(TlsSession::create(client_context, fds[1]));
    }
    // Both sides' outcomes once neither goes on.
    std::pair<Io, Io> handshake() {
        Io one = Io::again, two = Io::again;
        for (int i = 0; i < 20 && (one == Io::again || two == Io::again); ++i) {
            if (two == Io::again) two = client.tls()->handshake().status;
            if (one == Io::again) one = server.tls()->handshake().status;
            if (one == Io::failed || two == Io::failed) break;
        }
        return {one, two};
    }
    static std::string drain(Stream& from) {
        std::string all;
        char room[5000];
        for (;;) {
            IoResult got = from.read(room, sizeof room);
            if (got.status != Io::done) return all;
            all.append(room, size_t(got.bytes));
        }
    }
};

TEST_F(TlsTest, DataBothWays) {
    connect();
    EXPECT_EQ(client.read(nullptr, 0).status, Io::done);
    EXPECT_EQ(handshake(), std::make_pair(Io::done, Io::done));
    EXPECT_TRUE(client.tls()->established());
    EXPECT_STREQ(client.tls()->protocol(), "TLSv1.3");
    EXPECT_EQ(client.write("GET").bytes, 3);
    char room[2];
    IoResult got = server.read(room, 2);
    EXPECT_EQ(got.bytes, 2);
    EXPECT_FALSE(got.drained);
    EXPECT_EQ(server.tls()->pending(), 1u);
    got = server.read(room, 2);
    EXPECT_EQ(got.bytes, 1);
    EXPECT_TRUE(got.drained);
    EXPECT_EQ(server.read(room, 2).status, Io::again);
    EXPECT_EQ(server.tls()->wants(), TlsSession::Wants::read);
    EXPECT_EQ(server.write("answer").status, Io::done);
    EXPECT_EQ(drain(client), "answer");
}

TEST_F(TlsTest, ReadAndWriteShakeHandsThemselves) {
    connect();
    EXPECT_EQ(client.write("early").status, Io::again);
    char room[10];
    EXPECT_EQ(server.read(room, 10).status, Io::again);
    EXPECT_EQ(client.write("early").status, Io::done);
    EXPECT_EQ(drain(server), "early");
}

// What a server says after the client's last message (two tickets) leaves in one write, and a
// handshake whose bytes cannot leave is not over.
TEST_F(TlsTest, AHandshakeSendsWhatItSaysAtOnce) {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
    server = Stream(Fd(fds[0]));
    client = Stream(Fd(fds[1]));
    server.set_tls(TlsSession::create(server_context, fds[0]));
    client.set_tls(TlsSession::create(client_context, fds[1]));
    ASSERT_EQ(client.tls()->handshake().status, Io::again);
    ASSERT_EQ(server.tls()->handshake().status, Io::again);
    ASSERT_EQ(client.tls()->handshake().status, Io::done);
    ASSERT_EQ(server.tls()->handshake().status, Io::done);
    EXPECT_TRUE(server.tls()->drained());
    char room[4096];
    ssize_t tickets = recv(fds[1], room, sizeof room, 0);
    EXPECT_GT(tickets, 400);
    EXPECT_EQ(recv(fds[1], room, sizeof room, 0), -1);    // that was all
}

// A request that came with the end of the handshake: tickets and answer leave in one write.
TEST_F(TlsTest, TicketsGoWithTheFirstAnswer) {
    int fds[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, fds), 0);
    server = Stream(Fd(fds[0]));
    client = Stream(Fd(fds[1]));
    server.set_tls(TlsSession::create(server_context, fds[0]));
    client.set_tls(TlsSession::create(client_context, fds[1]));
    using Peer = TlsSession::Peer;
    ASSERT_EQ(client.tls()->handshake().status, Io::again);
    ASSERT_EQ(server.tls()->handshake_before_use(Peer::is_there).status, Io::again);
    ASSERT_EQ(client.tls()->handshake().status, Io::done);
    ASSERT_EQ(server.tls()->handshake_before_use(Peer::is_there).status, Io::done);
    char room[4096];
    EXPECT_EQ(recv(fds[1], room, sizeof room, MSG_PEEK), -1);      // not yet
    Chain answer;
    answer.add("answer");
    EXPECT_EQ(server.write(answer).status, Io::done);
    server.tls()->say_rest();
    EXPECT_GT(recv(fds[1], room, sizeof room, MSG_PEEK), 400);
    IoResult got = client.read(room, sizeof room);
    EXPECT_EQ(Slice(room, size_t(got.bytes)), "answer");
    EXPECT_EQ(recv(fds[1], room, sizeof room, 0), -1);             // it was one message
    EXPECT_EQ(client.write("x").status, Io::done);
    EXPECT_EQ(server.read(room, sizeof room).bytes, 1);
}

TEST_F(TlsTest, AHandshakeWaitsForRoomToWrite) {
    connect();
    ASSERT_EQ(client.tls()->handshake().status, Io::again);
    std::string filler(4096, 'x');
    size_t filled = 0;
    for (ssize_t n; (n = send(server.fd(), filler.data(), filler.size(), 0)) > 0;) {
        filled += size_t(n);
    }
    EXPECT_EQ(server.tls()->handshake().status, Io::again);
    EXPECT_EQ(server.tls()->wants(), TlsSession::Wants::write);
    for (ssize_t n; filled > 0; filled -= size_t(n)) {
        n = recv(client.fd(), filler.data(), std::min(filled, filler.size()), 0);
        ASSERT_GT(n, 0);
    }
    EXPECT_EQ(handshake(), std::make_pair(Io::done, Io::done));
}

TEST_F(TlsTest, ReadsSayWhenNothingIsLeft) {
    connect();
    ASSERT_EQ(handshake().first, Io::done);
    ASSERT_EQ(client.write("one").status, Io::done);
    ASSERT_EQ(client.write("two").status, Io::done);
    char room[64];
    IoResult got = server.read(room, 4);
    EXPECT_EQ(got.bytes, 4);
    EXPECT_FALSE(got.drained);
    got = server.read(room, sizeof room);
    EXPECT_EQ(Slice(room, size_t(got.bytes)), "wo");
    EXPECT_TRUE(got.drained);
    ASSERT_EQ(client.write("three").status, Io::done);    // what was empty is looked at again
    EXPECT_EQ(server.read(room, sizeof room).bytes, 5);
    client.close();
    EXPECT_EQ(server.read(room, sizeof room).status, Io::closed);
}

// Tickets and, without a word, the end: the end is seen although no byte came for the reader.
TEST_F(TlsTest, AnEndBehindTicketsIsSeen) {
    connect();
    ASSERT_EQ(client.tls()->handshake().status, Io::again);
    ASSERT_EQ(server.tls()->handshake().status, Io::again);
    ASSERT_EQ(client.tls()->handshake().status, Io::done);
    ASSERT_EQ(server.tls()->handshake().status, Io::done);
    server.reset();
    char room[64];
    EXPECT_EQ(client.read(room, sizeof room).status, Io::closed);
}

TEST_F(TlsTest, AnEndBehindAFlightIsSeen) {
    connect();
    ASSERT_EQ(client.tls()->handshake().status, Io::again);
    client.reset();
    EXPECT_NE(server.tls()->handshake().status, Io::again);
}

TEST_F(TlsTest, LargeChainsWithPartialWrites) {
    connect();
    ASSERT_EQ(handshake().first, Io::done);
    int small = 8192;
    setsockopt(server.fd(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    std::string text(300000, 0);
    for (size_t i = 0; i < text.size(); ++i) text[i] = char('a' + i * 31 % 26);
    char name[] = "/tmp/resty-tls-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    ASSERT_EQ(write(fd, text.data(), text.size()), ssize_t(text.size()));
    Chain chain;
    chain.add("head");
    chain.add_mark(Buffer::flush);
    for (size_t at = 0; at < 60000; at += 600) chain.add(Slice(text).substr(at, 600));
    chain.add(Slice(text).substr(60000, 100000));
    chain.add_file(OpenFile::adopt(fd), 160000, 300000);
    chain.add("end");
    chain.add_mark(Buffer::last);
    std::string all;
    int waits = 0;
    for (int i = 0; i < 10000; ++i) {
        IoResult result = server.write(chain, 50000);
        ASSERT_NE(result.status, Io::failed) << server.tls()->error_text();
        waits += result.status == Io::again;
        all += drain(client);
        if (chain.empty()) break;
    }
    EXPECT_TRUE(chain.empty());
    EXPECT_GT(waits, 0);
    EXPECT_EQ(all, "head" + text + "end");
}

TEST_F(TlsTest, SmallPiecesShareARecord) {
    connect();
    ASSERT_EQ(handshake().first, Io::done);
    drain(client);   // tickets
    Chain chain;
    for (int i = 0; i < 100; ++i) chain.add("x");
    EXPECT_EQ(server.write(chain).bytes, 100);
    char raw[1000];
    ssize_t got = recv(client.fd(), raw, sizeof raw, MSG_PEEK);
    EXPECT_LT(got, 150);   // one record's overhead, not a hundred
    EXPECT_EQ(drain(client), std::string(100, 'x'));
}

TEST_F(TlsTest, HalfCloseAndEnd) {
    connect();
    ASSERT_EQ(handshake().first, Io::done);
    drain(client);
    client.tls()->shutdown();
    char room[10];
    EXPECT_EQ(server.read(room, 10).status, Io::closed);
    EXPECT_EQ(server.write("still").status, Io::done);
    EXPECT_EQ(client.read(room, 10).bytes, 5);
    server.close();
    EXPECT_EQ(client.read(room, 10).status, Io::closed);   // no close_notify: an end all the same
}

TEST_F(TlsTest, DataBeforeTheEndIsDelivered) {
    connect();
    ASSERT_EQ(handshake().first, Io::done);
    drain(client);
    ASSERT_EQ(server.write("bye").status, Io::done);
    server.tls()->shutdown();
    server.close();
    char room[10];
    IoResult got = client.read(room, 10);
    EXPECT_EQ(got.status, Io::done);
    EXPECT_EQ(got.bytes, 3);
    EXPECT_EQ(client.read(room, 10).status, Io::closed);
}

TEST_F(TlsTest, AlpnAndServerName) {
    server_context->set_alpn({"h2", "http/1.1"});
    client_context->set_alpn({"http/1.1", "h2"});
    Identity other = make_identity("two.test");
    auto second = *TlsContext::create(TlsContext::Role::server);
    ASSERT_TRUE(second->use_certificate_pem(other.certificate, other.key));
    std::string asked;
    server_context->on_server_name([&](Slice name) {
        asked = name;
        return second.get();
    });
    connect();
    ASSERT_TRUE(client.tls()->set_server_name("two.test"));
    ASSERT_EQ(handshake(), std::make_pair(Io::done, Io::done));
    EXPECT_EQ(asked, "two.test");
    EXPECT_EQ(server.tls()->server_name(), "two.test");
    X509* shown = SSL_get1_peer_certificate(client.tls()->native());
    char name[100];
    X509_NAME_oneline(X509_get_subject_name(shown), name, sizeof name);
    EXPECT_STREQ(name, "/CN=two.test");
    X509_free(shown);
}

TEST_F(TlsTest, AlpnChoice) {
    server_context->set_alpn({"h2", "http/1.1"});
    client_context->set_alpn({"http/1.1", "h2"});
    connect();
    ASSERT_EQ(handshake().first, Io::done);
    EXPECT_EQ(client.tls()->alpn(), "h2");
    client_context->set_alpn({"spdy/3"});
    connect();
    EXPECT_EQ(handshake().first, Io::failed);
    EXPECT_NE(server.tls()->error_text().find("SSL: error:"), std::string::npos);
}

TEST_F(TlsTest, VerifiesThePeer) {
    client_context->verify_peer(true);
    connect();
    EXPECT_EQ(handshake().second, Io::failed);
    EXPECT_NE(client.tls()->error_text().find("certificate verify failed"), std::string::npos);
    EXPECT_EQ(client.tls()->verify_error(), "self-signed certificate");

    std::string path = "/tmp/resty-tls-ca-" + std::to_string(getpid());
    FILE* file = fopen(path.c_str(), "w");
    fputs(identity.certificate.c_str(), file);
    fclose(file);
    ASSERT_TRUE(client_context->trust_file(path));
    unlink(path.c_str());
    connect();
    ASSERT_TRUE(client.tls()->check_name("one.test"));
    EXPECT_EQ(handshake(), std::make_pair(Io::done, Io::done)) << client.tls()->error_text();
    connect();
    ASSERT_TRUE(client.tls()->check_name("other.test"));
    EXPECT_EQ(handshake().second, Io::failed);
    EXPECT_FALSE(client_context->trust_file("/nonexistent"));
}

TEST_F(TlsTest, Resumption) {
    SSL_SESSION* kept = nullptr;
    client_context->on_new_session([&](TlsSession&, SSL_SESSION* session) {
        if (kept) SSL_SESSION_free(kept);
        kept = session;
    });
    connect();
    ASSERT_EQ(handshake().first, Io::done);
    server.write("x");
    drain(client);
    ASSERT_TRUE(kept);
    EXPECT_FALSE(client.tls()->resumed());
    connect();
    client.tls()->resume(kept);
    ASSERT_EQ(handshake().first, Io::done);
    EXPECT_TRUE(client.tls()->resumed());
    EXPECT_TRUE(server.tls()->resumed());
    // Another context never takes the ticket.
    server_context = *TlsContext::create(TlsContext::Role::server);
    ASSERT_TRUE(server_context->use_certificate_pem(identity.certificate, identity.key));
    connect();
    client.tls()->resume(kept);
    ASSERT_EQ(handshake().first, Io::done);
    EXPECT_FALSE(client.tls()->resumed());
    SSL_SESSION_free(kept);
}

TEST_F(TlsTest, PlainTextIsRefused) {
    connect();
    ASSERT_EQ(::send(client.fd(), "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
    IoResult result = server.tls()->handshake();
    EXPECT_EQ(result.status, Io::failed);
    EXPECT_NE(server.tls()->error_text().find("http request"), std::string::npos);
    EXPECT_EQ(server.write("x").status, Io::failed);
}

TEST_F(TlsTest, BadMaterial) {
    auto fails = server_context->use_certificate_files("/nonexistent/c.pem", "/nonexistent/k.pem");
    ASSERT_FALSE(fails);
    EXPECT_TRUE(fails.error().what.starts_with(
        "cannot load certificate \"/nonexistent/c.pem\": BIO_new_file() failed (SSL: error:"))
        << fails.error().what;
    EXPECT_FALSE(server_context->use_certificate_pem("rubbish", "rubbish"));
    Identity other = make_identity("x");
    EXPECT_FALSE(server_context->use_certificate_pem(identity.certificate, other.key));
    EXPECT_FALSE(server_context->set_ciphers("NONSENSE"));
}

}  // namespace
