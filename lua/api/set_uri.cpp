// ngx.req.set_uri: another URI for the request, and, when asked to jump, another location.
#include <cstdio>
#include <string>

#include "lua/api/ffi.h"
#include "lua/vm.h"
#include "server/http/request.h"

namespace lua {
namespace {

constexpr PhaseMask in_rewrite = in(LuaPhase::rewrite, LuaPhase::server_rewrite);

// The first byte that has no place in a URI; npos when there is none.
size_t find_unsafe(core::Slice uri) {
    for (size_t n = 0; n < uri.size(); n++) {
        auto c = uint8_t(uri[n]);
        if ((c < 0x20 && c != '\t') || c == 0x7f) return n;
    }
    return core::Slice::npos;
}

// As the error log shows it: what is not plain text as \xXX.
std::string escaped_for_log(core::Slice text) {
    std::string shown;
    for (char c : text) {
        auto byte = uint8_t(c);
        if (byte >= 0x20 && byte < 0x7f && c != '"' && c != '\\') {
            shown += c;
            continue;
        }
        char room[8];
        std::snprintf(room, sizeof room, "\\x%02X", byte);
        shown += room;
    }
    return shown;
}

void check_uri(lua_State* L, core::Slice uri) {
    size_t at = find_unsafe(uri);
    if (at == core::Slice::npos) return;
    char byte[8];
    std::snprintf(byte, sizeof byte, "0x%02x", uint8_t(uri[at]));
    std::string shown = escaped_for_log(uri);
    luaL_error(L, "unsafe byte \"%s\" in uri \"%s\" (maybe you want to set the 'binary' argument?)",
               byte, shown.c_str());
}

// A jump starts afresh, like an internal redirect: with an empty ngx.ctx.
void forget_ctx(LuaTask& task) {
    int& ref = LuaRequest::of(*task.request).ctx_ref;
    if (ref >= 0) task.vm->release_context(ref);
    ref = LUA_NOREF;
}

int set_uri(lua_State* L) {
    int count = lua_gettop(L);
    if (count < 1 || count > 3) {
        return luaL_error(L, "expecting 1, 2 or 3 arguments but seen %d", count);
    }
    LuaTask& task = task_of(L);
    server::Request& request = request_of(L);
    core::Slice uri = check_slice(L, 1);
    if (uri.empty()) return luaL_error(L, "attempt to use zero-length uri");
    bool binary = false, jump = false;
    if (count >= 3) {
        luaL_checktype(L, 3, LUA_TBOOLEAN);
        binary = lua_toboolean(L, 3);
    }
    if (!binary) check_uri(L, uri);
    if (count >= 2) {
        luaL_checktype(L, 2, LUA_TBOOLEAN);
        jump = lua_toboolean(L, 2);
    }
    // Elsewhere the location is found already: there is nothing that would look again.
    if (jump && !(task.phase_bit() & in_rewrite)) return refuse(L, task);
    if (jump && task.abort_refused) {
        return luaL_error(L, "attempt to abort with pending subrequests");
    }
    request.set_uri(request.arena.copy(uri));
    request.internal = true;
    request.plain_uri = false;
    request.uri_changed = jump;
    if (!jump) {
        request.plain_uri = false;
        return 0;
    }
    forget_ctx(task);
    task.stop(TaskEnd::jumped);
    return lua_yield(L, 0);
}

constexpr LuaFunction functions[] = {{"ngx.req.set_uri", set_uri}};
REGISTER_LUA_API(set_uri, functions);

}  // namespace
}  // namespace lua
