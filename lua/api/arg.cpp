// ngx.arg: the arguments of set_by_lua, and the piece of the response that body_filter_by_lua works
// on. Reading is FFI (lualib/resty/core/param.lua); writing replaces the piece.
#include <algorithm>
#include <cstring>

#include "core/buffer.h"
#include "lua/api.h"
#include "lua/by_lua.h"

namespace lua {
namespace {

BodyPiece& piece_of(LuaTask& task) { return *static_cast<BodyPiece*>(task.phase_data); }

// The piece's marks, which outlive its bytes.
uint8_t marks_of(const core::Chain& chain) {
    uint8_t marks = 0;
    for (const core::Buffer* at = chain.head(); at; at = at->next) marks |= at->flags;
    return marks & (core::Buffer::last | core::Buffer::flush);
}

void replace_bytes(core::Chain& chain, core::Slice bytes) {
    uint8_t marks = marks_of(chain);
    chain.clear();
    if (!bytes.empty()) chain.add_copy(bytes);
    if (marks) chain.add_mark(marks);
}

void set_end(LuaTask& task, core::Chain& chain, bool end) {
    task.of_request->seen_last_in_filter = end;
    if (end) {
        if (!chain.ends()) chain.add_mark(core::Buffer::last);
        return;
    }
    for (core::Buffer* at = chain.head(); at; at = at->next) at->flags &= ~core::Buffer::last;
}

// Appends the strings and numbers of an array table, as ngx.print would.
void collect(lua_State* L, int table, std::string& to) {
    luaL_checkstack(L, 3, "table nested too deeply");
    int length = int(lua_objlen(L, table));
    for (int i = 1; i <= length; ++i) {
        lua_rawgeti(L, table, i);
        if (lua_istable(L, -1)) {
            collect(L, lua_gettop(L), to);
        } else if (lua_isstring(L, -1)) {
            to.append(check_slice(L, -1));
        } else {
            const char* why = lua_pushfstring(L, "bad data type %s found", luaL_typename(L, -1));
            luaL_argerror(L, 3, why);
        }
        lua_pop(L, 1);
    }
}

int set_body(lua_State* L, core::Chain& chain) {
    switch (lua_type(L, 3)) {
    case LUA_TSTRING:
    case LUA_TNUMBER: replace_bytes(chain, check_slice(L, 3)); return 0;
    case LUA_TNIL: replace_bytes(chain, {}); return 0;
    case LUA_TTABLE: {
        std::string text;
        collect(L, 3, text);
        replace_bytes(chain, text);
        return 0;
    }
    }
    return luaL_error(L, "bad chunk data type: %s", luaL_typename(L, 3));
}

// ngx.arg[index] = value
int set_argument(lua_State* L) {
    LuaTask& task = task_of(L);
    if (task.phase != LuaPhase::body_filter)
        return luaL_error(L, "API disabled in the current context");
    int index = int(luaL_checkinteger(L, 2));
    if (index != 1 && index != 2) return luaL_error(L, "bad index: %d", index);
    core::Chain& chain = *piece_of(task).chain;
    if (index == 1) return set_body(L, chain);
    set_end(task, chain, lua_toboolean(L, 3));
    return 0;
}

// The table itself; resty.core.param gives it __index.
void install(lua_State* L) {
    lua_getglobal(L, "ngx");
    lua_newtable(L);
    lua_createtable(L, 0, 2);
    lua_pushcfunction(L, set_argument);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
    lua_setfield(L, -2, "arg");
}

REGISTER_LUA_API(arg, {}, install);

}  // namespace
}  // namespace lua

LUA_FFI void ngx_http_lua_ffi_get_setby_param(ngx_http_request_t* r, int index,
                                              unsigned char** data, size_t* size) {
    auto& arguments = *static_cast<const lua::SetArguments*>(r->phase_data);
    *size = 0;
    if (index < 1 || index > arguments.count) return;
    core::Slice value = arguments.values[index - 1];
    *data = reinterpret_cast<unsigned char*>(const_cast<char*>(value.data()));
    *size = value.size();
}

LUA_FFI int ngx_http_lua_ffi_get_body_filter_param_eof(ngx_http_request_t* r) {
    for (const core::Buffer* at = lua::piece_of(*r).chain->head(); at; at = at->next)
        if (at->flags & core::Buffer::last) return 1;
    return 0;
}

LUA_FFI int ngx_http_lua_ffi_get_body_filter_param_body(ngx_http_request_t* r,
                                                        unsigned char** data, size_t* size) {
    const core::Chain& chain = *lua::piece_of(*r).chain;
    const core::Buffer* head = chain.head();
    *size = 0;
    if (!head) return lua::ffi_ok;
    if (!head->next && !head->is_file()) {
        *data = reinterpret_cast<unsigned char*>(const_cast<char*>(head->begin));
        *size = head->text().size();
        return lua::ffi_ok;
    }
    for (; head; head = head->next) *size += head->is_file() ? 0 : head->text().size();
    return lua::ffi_again;
}

LUA_FFI int ngx_http_lua_ffi_copy_body_filter_param_body(ngx_http_request_t* r,
                                                         unsigned char* to) {
    for (const core::Buffer* at = lua::piece_of(*r).chain->head(); at; at = at->next) {
        if (at->is_file()) continue;
        std::memcpy(to, at->begin, at->text().size());
        to += at->text().size();
    }
    return lua::ffi_ok;
}
