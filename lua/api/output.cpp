// ngx.say, ngx.print, ngx.send_headers, ngx.flush, ngx.eof.
#include <cmath>
#include <cstring>
#include <span>

#include "lua/api.h"
#include "lua/conf.h"
#include "lua/op.h"
#include "lua/output.h"
#include "lua/text.h"
#include "server/http/exchange.h"

namespace lua {
namespace {

using server::Request;

void add_value(core::Chain& to, lua_State* L, int index, int argument);

// The last index of an array table; raises when there are other keys.
int array_length(lua_State* L, int table, int argument) {
    int length = 0;
    lua_pushnil(L);
    while (lua_next(L, table)) {
        lua_pop(L, 1);
        double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
        if (key < 1 || std::floor(key) != key) luaL_argerror(L, argument, "non-array table found");
        if (key > length) length = int(key);
    }
    return length;
}

void add_table(core::Chain& to, lua_State* L, int table, int argument) {
    luaL_checkstack(L, 4, "table nested too deeply");
    int length = array_length(L, table, argument);
    for (int i = 1; i <= length; ++i) {
        lua_rawgeti(L, table, i);
        add_value(to, L, lua_gettop(L), argument);
        lua_pop(L, 1);
    }
}

[[gnu::cold]] void bad_type(lua_State* L, int index, int argument) {
    const char* name = luaL_typename(L, index);
    const char* why =
        index == argument
            ? lua_pushfstring(L, "string, number, boolean, nil, ngx.null, or array table expected, "
                                 "but got %s", name)
            : lua_pushfstring(L, "bad data type %s found", name);
    luaL_argerror(L, argument, why);
}

void add_value(core::Chain& to, lua_State* L, int index, int argument) {
    char room[40];
    switch (lua_type(L, index)) {
    case LUA_TSTRING: return to.add_copy(check_slice(L, index));
    case LUA_TNUMBER: return to.add_copy(number_text(L, index, room));
    case LUA_TNIL: return to.add_copy("nil");
    case LUA_TBOOLEAN: return to.add_copy(lua_toboolean(L, index) ? "true" : "false");
    case LUA_TTABLE: return add_table(to, L, index, argument);
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, index)) to.add_copy("null");
        return;
    default: bad_type(L, index, argument);
    }
}

int fail(lua_State* L, const char* why) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
}

int answer(lua_State* L, server::Verdict verdict) {
    if (!verdict.is(server::Verdict::passed)) return fail(L, "nginx output filter error");
    lua_pushinteger(L, 1);
    return 1;
}

// Why nothing can be written any more; null when it can.
const char* closed(const LuaTask& task) {
    const LuaRequest& state = *task.of_request;
    if (state.raw_socket) return "raw request socket acquired";
    // What follows a 101 belongs to the other protocol: its head may still be flushed.
    if (task.request->header_only && task.request->response.status != 101) return "header only";
    if (state.eof) return "seen eof";
    return nullptr;
}

// The usual case in one copy: `room` holds the short text to send, which is returned. A null
// data(): it is something else.
core::Slice short_text(lua_State* L, bool newline, std::span<char> room) {
    if (lua_type(L, 1) != LUA_TSTRING) return {};
    core::Slice text = check_slice(L, 1);
    if (text.size() >= room.size()) return {};
    std::memcpy(room.data(), text.data(), text.size());
    room[text.size()] = '\n';
    return {room.data(), text.size() + (newline ? 1 : 0)};
}

int echo(lua_State* L, bool newline) {
    request_of(L);
    LuaTask& task = task_of(L);
    LuaRequest& state = *task.of_request;
    if (const char* why = closed(task)) return fail(L, why);
    int count = lua_gettop(L);
    char room[512];
    core::Slice text;
    if (count == 1) text = short_text(L, newline, room);
    if (!text.empty()) {
        state.seen_body = true;
        return answer(L, send_lua_text(state, *task.conf, text));
    }
    core::Chain piece;
    for (int i = 1; i <= count; ++i) add_value(piece, L, i, i);
    if (newline) piece.add_copy("\n");
    if (piece.empty()) return answer(L, send_lua_head(state, *task.conf));
    state.seen_body = true;
    return answer(L, send_lua_body(state, *task.conf, std::move(piece)));
}

int say(lua_State* L) { return echo(L, true); }
int print(lua_State* L) { return echo(L, false); }

int send_headers(lua_State* L) {
    request_of(L);
    LuaTask& task = task_of(L);
    return answer(L, send_lua_head(*task.of_request, *task.conf));
}

int eof(lua_State* L) {
    request_of(L);
    LuaTask& task = task_of(L);
    if (lua_gettop(L) != 0) return luaL_error(L, "no argument is expected");
    LuaRequest& state = *task.of_request;
    if (state.raw_socket) return fail(L, "raw request socket acquired");
    if (state.eof) return fail(L, "seen eof");
    return answer(L, end_lua_output(state, *task.conf));
}

// Waits until the client has taken everything.
struct Flush final : Op {
    Request::Drain drain;
    explicit Flush(LuaThread& thread) : Op(thread) {
        drain.argument = this;
        drain.run = [](Request&, void* it) { static_cast<Flush*>(it)->complete(); };
        task().request->on_drained(drain);
    }
    int push_results(lua_State* L) override {
        if (task().request->output == Request::Output::broken) return fail(L, "client aborted");
        lua_pushinteger(L, 1);
        return 1;
    }
    const char* name() const override { return "flush"; }
};

int flush(lua_State* L) {
    int count = lua_gettop(L);
    if (count > 1)
        return luaL_error(L, "attempt to pass %d arguments, but accepted 0 or 1", count);
    Request& request = request_of(L);
    LuaTask& task = task_of(L);
    bool wait = false;
    if (count == 1 && &request == request.main) {
        luaL_checktype(L, 1, LUA_TBOOLEAN);
        wait = lua_toboolean(L, 1);
    }
    if (const char* why = closed(task)) return fail(L, why);
    if (task.of_request->buffering) return fail(L, "buffering");
    bool begun = request.output != Request::Output::none;
    if (!begun || (!task.of_request->seen_body && !wait)) return fail(L, "nothing to flush");
    core::Chain mark;
    mark.add_mark(core::Buffer::flush);
    server::Verdict verdict = request.send(std::move(mark));
    if (!verdict.is(server::Verdict::passed)) return answer(L, verdict);
    request.exchange->flush(request);
    if (!wait || (request.exchange->pending_bytes() == 0 && !request.output_blocked())) {
        lua_pushinteger(L, 1);
        return 1;
    }
    return await<Flush>(L);
}

constexpr LuaFunction functions[] = {
    {"ngx.say", say, in_answering},
    {"ngx.print", print, in_answering},
    {"ngx.send_headers", send_headers, in_answering},
    {"ngx.flush", flush, in_answering},
    {"ngx.eof", eof, in_answering},
};
REGISTER_LUA_API(output, functions);

}  // namespace
}  // namespace lua
