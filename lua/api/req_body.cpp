// ngx.req.read_body and its family: the request body, read, discarded, looked at and replaced.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/log.h"
#include "core/text.h"
#include "lua/api.h"
#include "lua/op.h"
#include "lua/output.h"
#include "server/http/core_conf.h"

namespace lua {
namespace {

using server::Request;
using server::RequestBody;
using server::Verdict;

// A subrequest sees its main request's body unless it was given one of its own.
RequestBody& body_of(Request& request) { return request.body; }

void expect_arguments(lua_State* L, int least, int most, const char* words) {
    int count = lua_gettop(L);
    if (count < least || count > most)
        luaL_error(L, "expecting %s but seen %d", words, count);
}

struct ReadBody final : Op {
    Verdict verdict = Verdict::suspend();
    explicit ReadBody(LuaThread& thread) : Op(thread) {}
    ~ReadBody() override {
        if (verdict.is(Verdict::suspended)) body_of(*task().request).forget_callback();
    }
    static void done(Request&, void* argument, Verdict how) {
        auto& self = *static_cast<ReadBody*>(argument);
        self.verdict = how;
        self.complete();
    }
    int push_results(lua_State*) override {
        if (verdict.is(Verdict::rejected)) task().stop(TaskEnd::exited, verdict.status);
        return 0;
    }
    const char* name() const override { return "read_body"; }
};

int read_body(lua_State* L) {
    expect_arguments(L, 0, 0, "0 arguments");
    Request& request = request_of(L);
    RequestBody& body = body_of(request);
    if (body.complete()) return 0;
    LuaThread& thread = waiting_thread(L);
    auto* op = new (thread.op_room(sizeof(ReadBody))) ReadBody(thread);
    Verdict verdict = body.read(request, read_options(request), ReadBody::done, op);
    op->verdict = verdict;
    if (verdict.is(Verdict::suspended)) {
        thread.state = LuaThread::waiting;
        thread.pending = op;
        return yield_for_op(L);
    }
    op->~ReadBody();
    if (verdict.is(Verdict::passed)) return 0;
    thread.task->stop(TaskEnd::exited, verdict.status);
    return lua_yield(L, 0);
}

int discard_body(lua_State* L) {
    expect_arguments(L, 0, 0, "0 arguments");
    Request& request = request_of(L);
    body_of(request).discard(request);
    return 0;
}

int get_body_data(lua_State* L) {
    expect_arguments(L, 0, 1, "0 or 1 arguments");
    size_t max = lua_gettop(L) ? size_t(luaL_checknumber(L, 1)) : 0;
    Request& request = request_of(L);
    RequestBody& body = body_of(request);
    bool in_memory = body.file_fd() < 0 && !body.buffers().empty();
    if (!body.complete() || !in_memory || body.size() == 0) {
        lua_pushnil(L);
        return 1;
    }
    core::Slice text = body.text(request);
    push_slice(L, max && text.size() > max ? text.substr(0, max) : text);
    return 1;
}

int get_body_file(lua_State* L) {
    expect_arguments(L, 0, 0, "0 arguments");
    RequestBody& body = body_of(request_of(L));
    if (body.file_fd() < 0) lua_pushnil(L);
    else push_slice(L, body.file_path());
    return 1;
}

// ---- replacing it ----

void check_replaceable(lua_State* L, const RequestBody& body) {
    auto state = body.state();
    if (state == RequestBody::State::discarding || state == RequestBody::State::discarded)
        luaL_error(L, "request body already discarded asynchronously");
    if (!body.complete()) luaL_error(L, "request body not read yet");
}

// The request's Content-Length follows the body it now has.
void set_length(Request& request, int64_t bytes) {
    char room[24];
    core::Slice text = request.arena.copy_z(core::format_number(bytes, room));
    request.headers.set(server::HeaderId::content_length, text);
    request.head.content_length = bytes;
    request.body.content_length = bytes;
    request.body.chunked = false;
}

int set_body_data(lua_State* L) {
    expect_arguments(L, 1, 1, "1 arguments");
    core::Slice data = check_slice(L, 1);
    Request& request = request_of(L);
    RequestBody& body = body_of(request);
    check_replaceable(L, body);
    body.set_text(request, request.arena.copy(data));
    set_length(request, int64_t(data.size()));
    return 0;
}

int set_body_file(lua_State* L) {
    expect_arguments(L, 1, 2, "1 or 2 arguments");
    core::Slice path = check_slice(L, 1);
    bool clean = lua_gettop(L) == 2 && (luaL_checktype(L, 2, LUA_TBOOLEAN), lua_toboolean(L, 2));
    Request& request = request_of(L);
    RequestBody& body = body_of(request);
    check_replaceable(L, body);
    core::Slice kept = request.arena.copy_z(path);
    int fd = open(kept.data(), O_RDONLY | O_CLOEXEC);
    struct stat facts;
    if (fd < 0 || fstat(fd, &facts) != 0) {
        int why = errno;
        if (fd >= 0) close(fd);
        LOG(request.log, crit, why, "open() \"%s\" failed", kept.data());
        return luaL_error(L, "%s \"%s\" failed", "open()", kept.data());
    }
    body.set_file(request, kept, fd, clean);
    set_length(request, facts.st_size);
    return 0;
}

// A body that is streamed to ngx.req.socket() goes on while its successor is made.
int init_body(lua_State* L) {
    expect_arguments(L, 0, 1, "0 or 1 argument");
    Request& request = request_of(L);
    RequestBody& body = body_of(request);
    if (!body.streamed()) check_replaceable(L, body);
    int64_t bytes = request.core().client_body_buffer_size->count;
    if (lua_gettop(L) == 1) bytes = luaL_checkinteger(L, 1);
    if (bytes < 0) return luaL_error(L, "bad size argument: %d", int(bytes));
    RequestBody* made = body.streamed() ? request.arena.make<RequestBody>() : &body;
    made->start_new(request, bytes);
    if (made == &body) request.head.content_length = 0;
    task_of(L).of_request->made_body = made;
    return 0;
}

RequestBody& made_body(lua_State* L) {
    request_of(L);
    RequestBody* made = task_of(L).of_request->made_body;
    if (!made) luaL_error(L, "request body not initialized");
    return *made;
}

int append_body(lua_State* L) {
    expect_arguments(L, 1, 1, "1 arguments");
    core::Slice data = check_slice(L, 1);
    RequestBody& made = made_body(L);
    if (!made.append(request_of(L), data)) return luaL_error(L, "fail to write the request body");
    return 0;
}

int finish_body(lua_State* L) {
    expect_arguments(L, 0, 0, "0 argument");
    Request& request = request_of(L);
    RequestBody& made = made_body(L);
    task_of(L).of_request->made_body = nullptr;
    made.finish_new(request);
    if (&made != &request.body) request.body.become(made);
    set_length(request, made.size());
    return 0;
}

constexpr LuaFunction functions[] = {
    {"ngx.req.read_body", read_body, in_answering},
    {"ngx.req.discard_body", discard_body},
    {"ngx.req.get_body_data", get_body_data},
    {"ngx.req.get_body_file", get_body_file},
    {"ngx.req.set_body_data", set_body_data},
    {"ngx.req.set_body_file", set_body_file},
    {"ngx.req.init_body", init_body},
    {"ngx.req.append_body", append_body},
    {"ngx.req.finish_body", finish_body},
};
REGISTER_LUA_API(req_body, functions);

}  // namespace
}  // namespace lua
