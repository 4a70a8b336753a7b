// ngx.log and print: messages for the error log, with the place they come from.
#include <cstring>
#include <string>

#include "core/log.h"
#include "lua/api.h"
#include "lua/text.h"

namespace lua {
namespace {

const core::LogContext& log_of(lua_State* L) {
    const LuaTask* task = find_task(L);
    return task ? task->log() : core::process_log();
}

// "file.lua:12: name(): ", from the function that called ngx.log.
void append_place(std::string& text, lua_State* L) {
    lua_Debug frame;
    std::memset(&frame, 0, sizeof frame);
    if (!lua_getstack(L, 1, &frame)) return;
    lua_getinfo(L, "Snl", &frame);
    const char* slash = std::strrchr(frame.short_src, '/');
    text.append(slash ? slash + 1 : frame.short_src).append(":");
    text.append(std::to_string(frame.currentline > 0 ? frame.currentline : frame.linedefined));
    text.append(": ");
    if (*frame.namewhat && *frame.what == 'L') text.append(frame.name).append("(): ");
}

// `argument`: how messages count it; the level is not one of them.
void append_argument(std::string& text, lua_State* L, int index, int argument) {
    int type = lua_type(L, index);
    if (type == LUA_TTABLE) {
        if (!luaL_callmeta(L, index, "__tostring"))
            luaL_argerror(L, argument, "expected table to have __tostring metamethod");
        size_t size;
        const char* value = lua_tolstring(L, -1, &size);
        if (value) text.append(value, size);
        lua_pop(L, 1);
    } else if (!append_scalar(text, L, index)) {
        const char* why = lua_pushfstring(L, "string, number, boolean, or nil expected, got %s",
                                          lua_typename(L, type));
        luaL_argerror(L, argument, why);
    }
}

int write(lua_State* L, core::Level level, int first) {
    const core::LogContext& log = log_of(L);
    if (!log.enabled(level)) return 0;
    std::string text = "[lua] ";
    append_place(text, L);
    int count = lua_gettop(L);
    for (int i = first; i <= count; ++i) append_argument(text, L, i, i - first + 1);
    core::log_text(log, level, 0, text);
    return 0;
}

int ngx_log(lua_State* L) {
    int level = int(luaL_checkinteger(L, 1));
    if (level < 0 || level > 8) {
        const char* why = lua_pushfstring(L, "bad log level: %d", level);
        return luaL_argerror(L, 1, why);
    }
    return write(L, core::Level(level), 2);
}

int print(lua_State* L) { return write(L, core::Level::notice, 1); }

constexpr LuaFunction functions[] = {{"ngx.log", ngx_log}, {"print", print}};
REGISTER_LUA_API(log, functions);

}  // namespace
}  // namespace lua
