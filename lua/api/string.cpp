// Text functions that build Lua strings: ngx.quote_sql_str, ngx.hmac_sha1.
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "lua/api/ffi.h"

namespace lua {
namespace {

// The letter behind the backslash for a byte that MySQL's string syntax needs escaped; 0: none.
char sql_escape(char c) {
    switch (c) {
    case '\0': return '0';
    case '\b': return 'b';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    case 26: return 'Z';
    case '\\':
    case '\'':
    case '"': return c;
    default: return 0;
    }
}

int quote_sql_str(lua_State* L) {
    if (lua_gettop(L) != 1) return luaL_error(L, "expecting one argument");
    core::Slice text = check_slice(L, 1);
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    luaL_addchar(&buffer, '\'');
    for (char c : text) {
        if (char letter = sql_escape(c)) {
            luaL_addchar(&buffer, '\\');
            luaL_addchar(&buffer, letter);
        } else {
            luaL_addchar(&buffer, c);
        }
    }
    luaL_addchar(&buffer, '\'');
    luaL_pushresult(&buffer);
    return 1;
}

int hmac_sha1(lua_State* L) {
    if (lua_gettop(L) != 2) {
        return luaL_error(L, "expecting 2 arguments, but got %d", lua_gettop(L));
    }
    core::Slice key = check_slice(L, 1), text = check_slice(L, 2);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    HMAC(EVP_sha1(), key.data(), int(key.size()),
         reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest, &size);
    push_slice(L, slice(digest, size));
    return 1;
}

constexpr LuaFunction functions[] = {
    {"ngx.quote_sql_str", quote_sql_str},
    {"ngx.hmac_sha1", hmac_sha1},
};
REGISTER_LUA_API(string, functions);

}  // namespace
}  // namespace lua
