// Digests: ngx.md5, ngx.md5_bin, ngx.sha1_bin, ngx.crc32_short, ngx.crc32_long.
// Pure functions over OpenSSL and zlib.
#include <openssl/evp.h>
#include <zlib.h>

#include "core/text.h"
#include "lua/api/ffi.h"

namespace lua {
namespace {

constexpr size_t md5_bytes = 16;

// The digest objects are fetched once: a lookup by name costs more than hashing a short text.
const EVP_MD* md5_digest() {
    static const EVP_MD* const digest = EVP_MD_fetch(nullptr, "MD5", nullptr);
    return digest;
}

const EVP_MD* sha1_digest() {
    static const EVP_MD* const digest = EVP_MD_fetch(nullptr, "SHA1", nullptr);
    return digest;
}

bool digest(const EVP_MD* kind, const void* data, size_t length, unsigned char* to) {
    static thread_local EVP_MD_CTX* const context = EVP_MD_CTX_new();
    return kind && EVP_DigestInit_ex2(context, kind, nullptr) &&
           EVP_DigestUpdate(context, data, length) && EVP_DigestFinal_ex(context, to, nullptr);
}

}  // namespace
}  // namespace lua

LUA_FFI void ngx_http_lua_ffi_md5_bin(const unsigned char* src, size_t len,
    unsigned char* dst) {
    lua::digest(lua::md5_digest(), src, len, dst);
}

LUA_FFI void ngx_http_lua_ffi_md5(const unsigned char* src, size_t len, unsigned char* dst) {
    unsigned char raw[lua::md5_bytes] = {};
    lua::digest(lua::md5_digest(), src, len, raw);
    core::hex_into(reinterpret_cast<char*>(dst), lua::slice(raw, sizeof raw));
}

LUA_FFI int ngx_http_lua_ffi_sha1_bin(const unsigned char* src, size_t len,
    unsigned char* dst) {
    return lua::digest(lua::sha1_digest(), src, len, dst);
}

LUA_FFI unsigned int ngx_http_lua_ffi_crc32_short(const unsigned char* src, size_t len) {
    return static_cast<unsigned>(crc32_z(0, src, len));
}

LUA_FFI unsigned int ngx_http_lua_ffi_crc32_long(const unsigned char* src, size_t len) {
    return static_cast<unsigned>(crc32_z(0, src, len));
}
