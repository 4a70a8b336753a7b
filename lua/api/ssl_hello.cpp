// ngx.ssl.clienthello: the client's first message as it came, under upstream's names. OpenSSL has
// it only while ssl_client_hello_by_lua runs, which the Lua side checks; at other times these find
// nothing.
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <vector>

#include "lua/api/ffi.h"
#include "lua/handshake_by_lua.h"

namespace lua {
namespace {

int fail(char** error, const char* why, int code = ffi_error) {
    ERR_clear_error();
    *error = const_cast<char*>(why);
    return code;
}

SSL* session_of(const LuaTask& task, char** error) {
    SSL* ssl = client_tls(task);
    if (!ssl) fail(error, "bad request");
    return ssl;
}

// A length of two bytes and what it covers (RFC 8446 3.4); empty when it does not add up.
core::Slice counted(core::Slice& rest) {
    if (rest.size() < 2) return {};
    size_t size = size_t(uint8_t(rest[0]) << 8 | uint8_t(rest[1]));
    if (size + 2 > rest.size()) return {};
    core::Slice found = rest.substr(2, size);
    rest.remove_prefix(size + 2);
    return found;
}

// The name in a server_name extension (RFC 6066 3); empty when it is malformed.
core::Slice host_name(core::Slice extension) {
    core::Slice list = counted(extension);
    if (list.empty() || !extension.empty() || list[0] != TLSEXT_NAMETYPE_host_name) return {};
    list.remove_prefix(1);
    return counted(list);
}

struct Version {
    int bit;                       // of ngx.ssl.clienthello's set_protocols
    uint64_t without;
};
constexpr Version versions[] = {
    {0x0004, SSL_OP_NO_SSLv3},   {0x0008, SSL_OP_NO_TLSv1},   {0x0010, SSL_OP_NO_TLSv1_1},
    {0x0020, SSL_OP_NO_TLSv1_2}, {0x0040, SSL_OP_NO_TLSv1_3},
};

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_ssl_get_client_hello_server_name(ngx_http_request_t* r,
                                                              const char** name, size_t* namelen,
                                                              char** err) {
    SSL* ssl = lua::session_of(*r, err);
    if (!ssl) return lua::ffi_error;
    const unsigned char* bytes = nullptr;
    size_t size = 0;
    if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &bytes, &size)) {
        return lua::ffi_declined;
    }
    core::Slice host = lua::host_name(lua::slice(bytes, size));
    if (host.empty()) return lua::fail(err, "Bad SSL Client Hello Extension");
    *name = host.data();
    *namelen = host.size();
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_get_client_hello_ext(ngx_http_request_t* r, unsigned type,
                                                      const unsigned char** out, size_t* outlen,
                                                      char** err) {
    SSL* ssl = lua::session_of(*r, err);
    if (!ssl) return lua::ffi_error;
    return SSL_client_hello_get0_ext(ssl, type, out, outlen) ? lua::ffi_ok : lua::ffi_declined;
}

// The array stays until the next call.
LUA_FFI int ngx_http_lua_ffi_ssl_get_client_hello_ext_present(ngx_http_request_t* r,
                                                              int** extensions,
                                                              size_t* extensions_len, char** err) {
    SSL* ssl = lua::session_of(*r, err);
    if (!ssl) return lua::ffi_error;
    static thread_local std::vector<int> kept;
    int* found = nullptr;
    size_t count = 0;
    if (!SSL_client_hello_get1_extensions_present(ssl, &found, &count) || !found || !count) {
        return lua::fail(err, "failed SSL_client_hello_get1_extensions_present()",
                         lua::ffi_declined);
    }
    kept.assign(found, found + count);
    OPENSSL_free(found);
    *extensions = kept.data();
    *extensions_len = count;
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_get_client_hello_ciphers(ngx_http_request_t* r,
                                                          unsigned short* ciphers, size_t room,
                                                          char** err) {
    SSL* ssl = lua::session_of(*r, err);
    if (!ssl) return lua::ffi_error;
    const unsigned char* bytes = nullptr;
    size_t size = SSL_client_hello_get0_ciphers(ssl, &bytes);
    if (size == 0) {
        return lua::fail(err, "failed SSL_client_hello_get0_ciphers()", lua::ffi_declined);
    }
    if (size % 2) {
        return lua::fail(err, "SSL_client_hello_get0_ciphers() odd ciphersuites_bytes",
                         lua::ffi_declined);
    }
    size_t count = std::min(size / 2, room);
    for (size_t i = 0; i < count; ++i) {
        ciphers[i] = static_cast<unsigned short>(bytes[2 * i] << 8 | bytes[2 * i + 1]);
    }
    return int(count);
}

// The list stands for itself: ssl_protocols does not limit it.
LUA_FFI int ngx_http_lua_ffi_ssl_set_protocols(ngx_http_request_t* r, int protocols, char** err) {
    SSL* ssl = lua::session_of(*r, err);
    if (!ssl) return lua::ffi_error;
    SSL_set_min_proto_version(ssl, 0);
    SSL_set_max_proto_version(ssl, 0);
    for (const lua::Version& version : lua::versions) {
        if (protocols & version.bit) {
            SSL_clear_options(ssl, version.without);
        } else {
            SSL_set_options(ssl, version.without);
        }
    }
    return lua::ffi_ok;
}
