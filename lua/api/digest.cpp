// Running digests for resty.md5, resty.sha1 and their family, and the two functions of nginx's that
// resty.string uses.
#include <openssl/evp.h>

#include "core/text.h"
#include "lua/api/ffi.h"

namespace lua {
namespace {

struct Digest {
    EVP_MD_CTX* context;
    const EVP_MD* kind;
    bool open;                   // neither finished nor failed

    bool begin() {
        open = EVP_DigestInit_ex2(context, kind, nullptr);
        return open;
    }
};

Digest& digest_of(void* handle) { return *static_cast<Digest*>(handle); }

}  // namespace
}  // namespace lua

LUA_FFI void* ngx_http_lua_ffi_digest_new(const char* name) {
    const EVP_MD* kind = EVP_get_digestbyname(name);
    EVP_MD_CTX* context = kind ? EVP_MD_CTX_new() : nullptr;
    if (!context) return nullptr;
    auto* digest = new lua::Digest{context, kind, false};
    digest->begin();
    return digest;
}

LUA_FFI int ngx_http_lua_ffi_digest_reset(void* digest) {
    return lua::digest_of(digest).begin();
}

LUA_FFI int ngx_http_lua_ffi_digest_update(void* digest, const void* data, size_t len) {
    lua::Digest& it = lua::digest_of(digest);
    return it.open && EVP_DigestUpdate(it.context, data, len);
}

LUA_FFI int ngx_http_lua_ffi_digest_final(void* digest, unsigned char* to) {
    lua::Digest& it = lua::digest_of(digest);
    if (!it.open) return 0;
    it.open = false;
    return EVP_DigestFinal_ex(it.context, to, nullptr);
}

LUA_FFI void ngx_http_lua_ffi_digest_free(void* digest) {
    EVP_MD_CTX_free(lua::digest_of(digest).context);
    delete &lua::digest_of(digest);
}

LUA_FFI unsigned char* ngx_hex_dump(unsigned char* dst, const unsigned char* src, size_t len) {
    core::hex_into(reinterpret_cast<char*>(dst), lua::slice(src, len));
    return dst + 2 * len;
}

LUA_FFI intptr_t ngx_atoi(const unsigned char* line, size_t n) {
    auto number = core::parse_number(lua::slice(line, n));
    return number ? intptr_t(*number) : lua::ffi_error;
}
