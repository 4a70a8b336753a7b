// Putting TLS connections aside: when it is done, and that nothing is different afterwards.
#include "core/tls_idle.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

#include "core/reactor.h"

namespace {

using namespace core;

// Before any test makes OpenSSL ask for memory.
const bool installed = TlsIdle::install();

SSL_CTX* server_context() {
    SSL_CTX* context = SSL_CTX_new(TLS_server_method());
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_sign(certificate, key, EVP_sha256());
    SSL_CTX_use_certificate(context, certificate);
    SSL_CTX_use_PrivateKey(context, key);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return context;
}

struct TlsIdleTest : testing::Test {
    SSL_CTX* contexts[2] = {server_context(), SSL_CTX_new(TLS_client_method())};
    std::unique_ptr<TlsIdle> idle;
    TlsHandle server, client;

    void SetUp() override {
        ASSERT_TRUE(installed);
        ASSERT_TRUE(Reactor::open());
        idle = std::make_unique<TlsIdle>(1000000);
        // The size of the objects is learned from the first, which is not put aside.
        TlsHandle first;
        ASSERT_TRUE(first.make(contexts[0]));
        ASSERT_TRUE(server.make(contexts[0]));
        ASSERT_TRUE(client.make(contexts[1]));
        BIO *one, *two;
        ASSERT_TRUE(BIO_new_bio_pair(&one, 0, &two, 0));
        SSL_set_bio(server, one, one);
        SSL_set_bio(client, two, two);
        SSL_set_accept_state(server);
        SSL_set_connect_state(client);
    }
    void TearDown() override {
        idle.reset();
        Reactor::close();
        for (SSL_CTX* context : contexts) SSL_CTX_free(context);
    }
    void handshake() {
        for (int i = 0; i < 5; ++i) {
            SSL_do_handshake(client);
            SSL_do_handshake(server);
        }
        ASSERT_TRUE(SSL_is_init_finished(server));
    }
    // Long enough for what is not used meanwhile.
    void rest() {
        idle->look();
        idle->look();
    }
    static std::string pass(TlsHandle& from, TlsHandle& to, const std::string& text) {
        char room[1000];
        EXPECT_EQ(SSL_write(from, text.data(), int(text.size())), int(text.size()));
        int got = SSL_read(to, room, sizeof room);
        return got > 0 ? std::string(room, size_t(got)) : std::string();
    }
};

TEST_F(TlsIdleTest, WorksOnAfterwards) {
    handshake();
    for (int round = 0; round < 3; ++round) {
        EXPECT_EQ(pass(client, server, "hello"), "hello");
        rest();
        EXPECT_TRUE(server.aside());
        EXPECT_TRUE(client.aside());
        EXPECT_EQ(pass(server, client, "and back"), "and back");
        EXPECT_FALSE(server.aside());
    }
}

TEST_F(TlsIdleTest, IsBitForBitTheSame) {
    handshake();
    constexpr size_t bytes = 4096;
    std::string before(reinterpret_cast<const char*>(static_cast<SSL*>(server)), bytes);
    rest();
    ASSERT_TRUE(server.aside());
    std::string after(reinterpret_cast<const char*>(static_cast<SSL*>(server)), bytes);
    EXPECT_EQ(before, after);
}

TEST_F(TlsIdleTest, WhatIsInUseStays) {
    idle->look();
    idle->look();
    EXPECT_FALSE(server.aside());                 // its handshake is not over
    handshake();
    idle->look();
    EXPECT_FALSE(server.aside());                 // used since the last look
    EXPECT_EQ(pass(client, server, "x"), "x");
    idle->look();
    EXPECT_FALSE(server.aside());
    idle->look();
    EXPECT_TRUE(server.aside());
}

TEST_F(TlsIdleTest, WhatIsPinnedStays) {
    handshake();
    client.pin();
    rest();
    EXPECT_TRUE(server.aside());
    EXPECT_FALSE(client.aside());
    server.pin();
    EXPECT_FALSE(server.aside());
    rest();
    EXPECT_FALSE(server.aside());
    EXPECT_EQ(pass(client, server, "x"), "x");
}

TEST_F(TlsIdleTest, WhoSharesItBringsItBack) {
    handshake();
    SSL* shared = server;
    SSL_up_ref(shared);
    rest();
    ASSERT_TRUE(server.aside());
    EXPECT_STREQ(SSL_get_version(TlsHandle::awake(shared)), "TLSv1.3");
    EXPECT_FALSE(server.aside());
    rest();
    {
        TlsHandle gone;
        ASSERT_TRUE(gone.make(contexts[0]));
        SSL_up_ref(gone);
        SSL_free(TlsHandle::awake(shared));
        shared = gone;
    }
    EXPECT_STREQ(SSL_get_version(TlsHandle::awake(shared)), "TLSv1.3");
    SSL_free(TlsHandle::awake(shared));
    EXPECT_EQ(TlsHandle::awake(nullptr), nullptr);
}

TEST_F(TlsIdleTest, NothingIsPutAsideWithoutOne) {
    handshake();
    rest();
    ASSERT_TRUE(server.aside());
    idle.reset();
    EXPECT_EQ(pass(client, server, "x"), "x");
    TlsHandle later;
    ASSERT_TRUE(later.make(contexts[0]));
    EXPECT_FALSE(later.linked());
}

}  // namespace
