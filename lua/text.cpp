// Lua values as bytes; see text.h.
#include "lua/text.h"

#include <cstdio>

#include "core/text.h"

namespace lua {

core::Slice number_text(lua_State* L, int index, char* room) {
    double value = lua_tonumber(L, index);
    if (value > -1e9 && value < 1e9 && double(int(value)) == value &&
        !(value == 0 && __builtin_signbit(value))) {
        return core::format_number(int(value), room);
    }
    int size = std::snprintf(room, 40, "%.14g", value);
    return {room, size_t(size)};
}

bool append_scalar(std::string& text, lua_State* L, int index) {
    size_t size;
    const char* bytes;
    char room[40];
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        bytes = lua_tolstring(L, index, &size);
        text.append(bytes, size);
        return true;
    case LUA_TNUMBER: text += number_text(L, index, room); return true;
    case LUA_TNIL: text += "nil"; return true;
    case LUA_TBOOLEAN: text += lua_toboolean(L, index) ? "true" : "false"; return true;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, index)) text += "null";
        return true;
    }
    return false;
}

}  // namespace lua
