// Certificates and private keys as Lua holds them: chains (STACK_OF(X509)) and keys (EVP_PKEY) made
// of PEM or DER text, under upstream's names; and their way into a TLS session. Called by
// lualib/ngx/ssl.lua, and by whoever knows which session is meant.
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <climits>
#include <cstring>
#include <memory>

#include "lua/api.h"
#include "lua/api/tls_certificates.h"

namespace lua {
namespace {

template <auto free>
struct Free {
    template <class T>
    void operator()(T* object) const {
        free(object);
    }
};
void free_chain(STACK_OF(X509)* chain) { sk_X509_pop_free(chain, X509_free); }

using Input = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Chain = std::unique_ptr<STACK_OF(X509), Free<free_chain>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;

// Says why, and answers null. What stayed in OpenSSL's queue would be taken for an error of the
// next TLS operation.
std::nullptr_t tell(char** error, const char* why) {
    ERR_clear_error();
    *error = const_cast<char*>(why);
    return nullptr;
}

Input open(const void* data, size_t bytes, char** error) {
    Input input(bytes <= INT_MAX ? BIO_new_mem_buf(data, int(bytes)) : nullptr);
    if (!input) tell(error, "BIO_new_mem_buf() failed");
    return input;
}

bool push(const Chain& chain, Certificate certificate, char** error, const char* why) {
    if (sk_X509_push(chain.get(), certificate.get()) == 0) {
        tell(error, why);
        return false;
    }
    certificate.release();
    return true;
}

// A chain of its first certificate.
Chain begin_chain(Certificate first, char** error) {
    Chain chain(sk_X509_new_null());
    if (!chain) return tell(error, "sk_X509_new_null() failed");
    if (!push(chain, std::move(first), error, "sk_X509_push() failed")) return nullptr;
    return chain;
}

bool at_end_of_pem() {
    unsigned long last = ERR_peek_last_error();
    bool ended = ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
    if (ended) ERR_clear_error();
    return ended;
}

Chain read_pem_chain(const void* data, size_t bytes, char** error) {
    Input input = open(data, bytes, error);
    if (!input) return nullptr;
    Certificate next(PEM_read_bio_X509_AUX(input.get(), nullptr, nullptr, nullptr));
    if (!next) return tell(error, "PEM_read_bio_X509_AUX() failed");
    Chain chain = begin_chain(std::move(next), error);
    while (chain) {
        next.reset(PEM_read_bio_X509(input.get(), nullptr, nullptr, nullptr));
        if (!next) {
            if (at_end_of_pem()) break;
            return tell(error, "PEM_read_bio_X509() failed");
        }
        if (!push(chain, std::move(next), error, "sk_X509_push() failed")) return nullptr;
    }
    return chain;
}

Chain read_der_chain(const void* data, size_t bytes, char** error) {
    if (!data || bytes == 0) return tell(error, "invalid argument");
    Input input = open(data, bytes, error);
    if (!input) return nullptr;
    Certificate next(d2i_X509_bio(input.get(), nullptr));
    if (!next) return tell(error, "d2i_X509_bio() failed");
    Chain chain = begin_chain(std::move(next), error);
    while (chain && !BIO_eof(input.get())) {
        next.reset(d2i_X509_bio(input.get(), nullptr));
        if (!next) return tell(error, "d2i_X509_bio() failed in rest of chain");
        if (!push(chain, std::move(next), error, "sk_X509_push() failed in rest of chain")) {
            return nullptr;
        }
    }
    return chain;
}

// Answers OpenSSL's question for a passphrase: without one the key is refused, nobody is asked.
int passphrase_for(char* to, int room, int, void* passphrase) {
    auto* text = static_cast<const char*>(passphrase);
    size_t length = text ? std::strlen(text) : 0;
    if (length == 0 || length > size_t(room)) return -1;
    std::memcpy(to, text, length);
    return int(length);
}

Key read_pem_key(const void* data, size_t bytes, const unsigned char* passphrase, char** error) {
    Input input = open(data, bytes, error);
    if (!input) return nullptr;
    Key key(PEM_read_bio_PrivateKey(input.get(), nullptr, passphrase_for,
                                    const_cast<unsigned char*>(passphrase)));
    if (!key) tell(error, "PEM_read_bio_PrivateKey() failed");
    return key;
}

Key read_der_key(const void* data, size_t bytes, char** error) {
    Input input = open(data, bytes, error);
    if (!input) return nullptr;
    Key key(d2i_PrivateKey_bio(input.get(), nullptr));
    if (!key) tell(error, "d2i_PrivateKey_bio() failed");
    return key;
}

int fail(char** error, const char* why) {
    tell(error, why);
    return ffi_error;
}

}  // namespace

int use_certificate(SSL* ssl, void* chain_of_certificates, char** error) {
    auto* chain = static_cast<STACK_OF(X509)*>(chain_of_certificates);
    if (!chain || sk_X509_num(chain) < 1) return fail(error, "invalid certificate chain");
    if (!SSL_use_certificate(ssl, sk_X509_value(chain, 0))) {
        return fail(error, "SSL_use_certificate() failed");
    }
    SSL_clear_chain_certs(ssl);
    for (int i = 1; i < sk_X509_num(chain); ++i) {
        if (!SSL_add1_chain_cert(ssl, sk_X509_value(chain, i))) {
            return fail(error, "SSL_add1_chain_cert() failed");
        }
    }
    return ffi_ok;
}

int use_private_key(SSL* ssl, void* key, char** error) {
    if (!key) return fail(error, "invalid private key");
    if (SSL_use_PrivateKey(ssl, static_cast<EVP_PKEY*>(key))) return ffi_ok;
    return fail(error, "SSL_use_PrivateKey() failed");
}

int use_der_certificate(SSL* ssl, const char* der, size_t bytes, char** error) {
    Input input = open(der, bytes, error);
    if (!input) return ffi_error;
    Certificate next(d2i_X509_bio(input.get(), nullptr));
    if (!next) return fail(error, "d2i_X509_bio() failed");
    if (!SSL_use_certificate(ssl, next.get())) return fail(error, "SSL_use_certificate() failed");
    SSL_clear_chain_certs(ssl);
    while (!BIO_eof(input.get())) {
        next.reset(d2i_X509_bio(input.get(), nullptr));
        if (!next) return fail(error, "d2i_X509_bio() failed");
        if (!SSL_add0_chain_cert(ssl, next.get())) {
            return fail(error, "SSL_add0_chain_cert() failed");
        }
        next.release();
    }
    return ffi_ok;
}

int use_der_private_key(SSL* ssl, const char* der, size_t bytes, char** error) {
    Key key = read_der_key(der, bytes, error);
    if (!key) return ffi_error;
    return use_private_key(ssl, key.get(), error);
}

}  // namespace lua

LUA_FFI void* ngx_http_lua_ffi_parse_pem_cert(const unsigned char* pem, size_t bytes,
                                              char** error) {
    return lua::read_pem_chain(pem, bytes, error).release();
}

LUA_FFI void* ngx_http_lua_ffi_parse_der_cert(const char* der, size_t bytes, char** error) {
    return lua::read_der_chain(der, bytes, error).release();
}

LUA_FFI void ngx_http_lua_ffi_free_cert(void* chain) {
    lua::free_chain(static_cast<STACK_OF(X509)*>(chain));
}

LUA_FFI void* ngx_http_lua_ffi_parse_pem_priv_key(const unsigned char* pem, size_t bytes,
                                                  char** error) {
    return lua::read_pem_key(pem, bytes, nullptr, error).release();
}

LUA_FFI void* ngx_http_lua_ffi_parse_der_priv_key(const char* der, size_t bytes,
                                                  char** error) {
    if (!der || bytes == 0) return lua::tell(error, "invalid argument");
    return lua::read_der_key(der, bytes, error).release();
}

LUA_FFI void ngx_http_lua_ffi_free_priv_key(void* key) {
    EVP_PKEY_free(static_cast<EVP_PKEY*>(key));
}

// The whole chain, one certificate behind the other. DER is never longer than its PEM.
LUA_FFI int ngx_http_lua_ffi_cert_pem_to_der(const unsigned char* pem, size_t bytes,
                                             unsigned char* der, char** error) {
    lua::Chain chain = lua::read_pem_chain(pem, bytes, error);
    if (!chain) return lua::ffi_error;
    int total = 0;
    for (int i = 0; i < sk_X509_num(chain.get()); ++i) {
        int length = i2d_X509(sk_X509_value(chain.get(), i), &der);
        if (length < 0) return lua::tell(error, "i2d_X509() failed"), lua::ffi_error;
        total += length;
    }
    return total;
}

LUA_FFI int ngx_http_lua_ffi_priv_key_pem_to_der(const unsigned char* pem, size_t bytes,
                                                 const unsigned char* passphrase,
                                                 unsigned char* der, char** error) {
    lua::Key key = lua::read_pem_key(pem, bytes, passphrase, error);
    if (!key) return lua::ffi_error;
    // An encrypted key may be shorter than what is in it: the caller's room is that of the PEM.
    int length = i2d_PrivateKey(key.get(), nullptr);
    if (length < 0 || size_t(length) > bytes) {
        return lua::tell(error, "i2d_PrivateKey() failed"), lua::ffi_error;
    }
    return i2d_PrivateKey(key.get(), &der);
}
