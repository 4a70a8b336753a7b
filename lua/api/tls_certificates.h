// Giving a TLS session a certificate and its key, whichever side it is: ngx.ssl in handshakes with
// clients, ngx.ssl.proxysslcert in those with upstreams. Each answers ffi_ok, or ffi_error with
// *error set to the name of OpenSSL's function that failed.
#pragma once

#include <cstddef>

struct ssl_st;

namespace lua {

// DER: the certificate, then those that signed it, one behind the other.
int use_der_certificate(ssl_st* ssl, const char* der, size_t bytes, char** error);
int use_der_private_key(ssl_st* ssl, const char* der, size_t bytes, char** error);
// What ngx.ssl.parse_* made: STACK_OF(X509)*, EVP_PKEY*.
int use_certificate(ssl_st* ssl, void* chain, char** error);
int use_private_key(ssl_st* ssl, void* key, char** error);

}  // namespace lua
