// What a handler returns is the response: text as it is, a table as JSON, a number before either is
// the status. Called by handler_run.cpp when the function of a file has returned.
#include <string>

#include "core/text.h"
#include "lua/api.h"
#include "lua/cjson/config.h"
#include "lua/conf.h"
#include "lua/handler_run.h"
#include "lua/output.h"

namespace lua {

namespace {

using server::Request;
using server::Verdict;

int encode_table(lua_State* L) {
    static const cjson::Config config = [] {
        cjson::Config made;
        made.encode_escape_forward_slash = 0;
        return made;
    }();
    cjson::encode(L, config);
    return 1;
}

// Replaces the table at `index` by its text. False: the task has failed, and that was logged.
bool make_json(LuaTask& task, lua_State* L, int index) {
    lua_pushcfunction(L, encode_table);
    lua_pushvalue(L, index);
    if (lua_pcall(L, 1, 1, 0) != 0) {
        const char* why = lua_tostring(L, -1);
        core::log_text(task.log(), core::Level::error, 0,
                       std::string("lua_handlers: the table that was returned: ") +
                           (why ? why : "?"));
        task.end = TaskEnd::failed;
        return false;
    }
    lua_replace(L, index);
    return true;
}

// A handler's text is all of the body; who changes that is to say so (body_filter_by_lua cannot).
void send_body(LuaTask& task, int status, core::Slice body, bool is_json) {
    Request& request = *task.request;
    LuaRequest& state = *task.of_request;
    if (request.header_sent() || !state.held.empty() || state.eof) {
        send_lua_text(state, *task.conf, body);
        return;
    }
    if (status) request.response.status = uint16_t(status);
    if (is_json && request.response.content_type.empty()) {
        request.response.content_type = "application/json";
    }
    if (!task.conf->chunk(HandlerSlot::body_filter)) {
        request.response.content_length = int64_t(body.size());
        state.headers_set = true;
    }
    Verdict verdict = send_lua_text(state, *task.conf, body);
    if (verdict.is(Verdict::rejected)) task.stop(TaskEnd::exited, verdict.status);
}

}  // namespace

void answer_with_results(LuaTask& task) {
    lua_State* L = task.entry->L;
    int count = lua_gettop(L);
    if (count == 0 || task.end != TaskEnd::returned) return;
    int status = 0, body = 1;
    if (lua_type(L, 1) == LUA_TNUMBER) {
        status = int(lua_tointeger(L, 1));
        body = 2;
        if (status < 200 || status > 999) {
            LOG(task.log(), error, 0, "lua_handlers: a handler returned the status %d", status);
            task.end = TaskEnd::failed;
            return;
        }
    }
    bool is_table = count >= body && lua_istable(L, body);
    if (is_table && !make_json(task, L, body)) return;
    if (count >= body && (is_table || lua_isstring(L, body))) {
        send_body(task, status, check_slice(L, body), is_table);
    } else if (status) {
        task.stop(TaskEnd::exited, status);
    }
}

}  // namespace lua
