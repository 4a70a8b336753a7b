// ngx.ssl.session: the session that ssl_session_store_by_lua is to keep or
// ssl_session_fetch_by_lua to find, under upstream's names.
#include <openssl/err.h>
#include <openssl/ssl.h>

#include "lua/api/ffi.h"
#include "lua/handshake_by_lua.h"
#include "server/http/handshake.h"

namespace lua {
namespace {

constexpr int session_bytes_max = 4096;

int fail(char** error, const char* why) {
    ERR_clear_error();
    *error = const_cast<char*>(why);
    return ffi_error;
}

server::Handshake* handshake(const LuaTask& task, char** error) {
    server::Handshake* found = handshake_of(task);
    if (!found) fail(error, client_tls(task) ? "bad lua context" : "bad request");
    return found;
}

SSL_SESSION* session_at_hand(const LuaTask& task, char** error) {
    const server::Handshake* of = handshake(task, error);
    if (!of) return nullptr;
    if (!of->session()) fail(error, "bad session in lua context");
    return of->session();
}

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_ssl_set_serialized_session(ngx_http_request_t* r,
                                                        const unsigned char* data, int len,
                                                        char** err) {
    server::Handshake* handshake = lua::handshake(*r, err);
    if (!handshake) return lua::ffi_error;
    if (len <= 0 || len > lua::session_bytes_max) return lua::fail(err, "invalid session length");
    SSL_SESSION* session = d2i_SSL_SESSION(nullptr, &data, len);
    if (!session) return lua::fail(err, "failed to de-serialize session");
    handshake->offer(session);
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_ssl_get_serialized_session_size(ngx_http_request_t* r, char** err) {
    SSL_SESSION* session = lua::session_at_hand(*r, err);
    if (!session) return lua::ffi_error;
    int size = i2d_SSL_SESSION(session, nullptr);
    return size > 0 ? size : lua::fail(err, "i2d_SSL_SESSION() failed");
}

LUA_FFI int ngx_http_lua_ffi_ssl_get_serialized_session(ngx_http_request_t* r, unsigned char* buf,
                                                        char** err) {
    SSL_SESSION* session = lua::session_at_hand(*r, err);
    if (!session) return lua::ffi_error;
    if (i2d_SSL_SESSION(session, &buf) <= 0) return lua::fail(err, "i2d_SSL_SESSION() failed");
    return lua::ffi_ok;
}

// Two digits for each byte.
LUA_FFI int ngx_http_lua_ffi_ssl_get_session_id_size(ngx_http_request_t* r, char** err) {
    const server::Handshake* handshake = lua::handshake(*r, err);
    if (!handshake) return lua::ffi_error;
    if (handshake->session_id().empty()) {
        return lua::fail(err, "uninitialized session id len in lua context");
    }
    return int(2 * handshake->session_id().size());
}

LUA_FFI int ngx_http_lua_ffi_ssl_get_session_id(ngx_http_request_t* r, unsigned char* buf,
                                                char** err) {
    const server::Handshake* handshake = lua::handshake(*r, err);
    if (!handshake) return lua::ffi_error;
    if (handshake->session_id().empty()) {
        return lua::fail(err, "uninitialized session id in lua context");
    }
    constexpr char digits[] = "0123456789abcdef";
    for (unsigned char byte : handshake->session_id()) {
        *buf++ = static_cast<unsigned char>(digits[byte >> 4]);
        *buf++ = static_cast<unsigned char>(digits[byte & 15]);
    }
    return lua::ffi_ok;
}
