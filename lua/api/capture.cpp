// ngx.location.capture and capture_multi: subrequests whose responses come back as Lua tables.
#include <unistd.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "core/text.h"
#include "lua/api.h"
#include "lua/api/args.h"
#include "lua/op.h"
#include "server/http/subrequest.h"
#include "server/http/uri.h"
#include "server/http/variables.h"

namespace lua {
namespace {

using server::Method;
using server::Request;

// What one query of capture_multi asks for. Its texts are Lua's until the child is made.
struct Query {
    using Pairs = std::vector<std::pair<core::Slice, core::Slice>>;
    core::Slice uri, args;
    int method_bit = 0x2;
    bool has_body = false, always_forward_body = false;
    bool share_all_vars = false, copy_all_vars = false;
    core::Slice body;
    Pairs vars, headers;
    int ctx = 0;                   // stack index of the ctx option; 0: none
};

struct MethodBit {
    int bit;
    Method method;
};
constexpr MethodBit method_bits[] = {
    {0x2, Method::get}, {0x4, Method::head}, {0x8, Method::post}, {0x10, Method::put},
    {0x20, Method::delete_}, {0x40, Method::mkcol}, {0x80, Method::copy}, {0x100, Method::move},
    {0x200, Method::options}, {0x400, Method::propfind}, {0x800, Method::proppatch},
    {0x1000, Method::lock}, {0x2000, Method::unlock}, {0x4000, Method::patch},
    {0x8000, Method::trace}, {0x10000, Method::connect},
};

Method method_of(int bit) {
    for (const MethodBit& known : method_bits)
        if (known.bit == bit) return known.method;
    return Method::unknown;
}

// ---- reading the options ----

core::Slice read_args(lua_State* L, Request& request, int options) {
    lua_getfield(L, options, "args");
    core::Slice args;
    switch (lua_type(L, -1)) {
    case LUA_TTABLE: args = encoded_args(L, lua_gettop(L)); break;
    case LUA_TNIL: break;
    case LUA_TNUMBER:
    case LUA_TSTRING: args = check_slice(L, -1); break;
    default: luaL_error(L, "Bad args option value");
    }
    args = request.arena.copy(args);
    lua_pop(L, 1);
    return args;
}

void read_pairs(lua_State* L, Request& request, int options, const char* name,
                Query::Pairs& pairs) {
    lua_getfield(L, options, name);
    if (lua_isnil(L, -1)) return lua_pop(L, 1);
    if (!lua_istable(L, -1)) luaL_error(L, "Bad %s option value", name);
    int table = lua_gettop(L);
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_error(L, "attempt to use a non-string key in the \"vars\" option table");
        if (!lua_isstring(L, -1))
            luaL_error(L, "attempt to use bad variable value type %s", luaL_typename(L, -1));
        pairs.emplace_back(request.arena.copy(check_slice(L, -2)),
                           request.arena.copy(check_slice(L, -1)));
    }
    lua_pop(L, 1);
}

bool read_flag(lua_State* L, int options, const char* name) {
    lua_getfield(L, options, name);
    if (!lua_isnil(L, -1) && !lua_isboolean(L, -1)) luaL_error(L, "Bad %s option value", name);
    bool on = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return on;
}

void read_body_option(lua_State* L, Request& request, int options, Query& query) {
    lua_getfield(L, options, "body");
    int type = lua_type(L, -1);
    if (type != LUA_TNIL) {
        if (type != LUA_TSTRING && type != LUA_TNUMBER) luaL_error(L, "Bad http request body");
        query.has_body = true;
        query.body = request.arena.copy(check_slice(L, -1));
    }
    lua_pop(L, 1);
}

void read_options(lua_State* L, Request& request, int options, Query& query) {
    query.args = read_args(L, request, options);
    read_pairs(L, request, options, "vars", query.vars);
    read_pairs(L, request, options, "headers", query.headers);
    query.share_all_vars = read_flag(L, options, "share_all_vars");
    query.copy_all_vars = read_flag(L, options, "copy_all_vars");
    lua_getfield(L, options, "always_forward_body");
    query.always_forward_body = lua_toboolean(L, -1);
    lua_getfield(L, options, "method");
    if (!lua_isnil(L, -1)) {
        if (lua_type(L, -1) != LUA_TNUMBER) luaL_error(L, "Bad http request method");
        query.method_bit = int(lua_tonumber(L, -1));
    }
    lua_pop(L, 2);
    lua_getfield(L, options, "ctx");
    if (!lua_isnil(L, -1) && !lua_istable(L, -1)) {
        luaL_error(L, "Bad ctx option value type %s, expected a Lua table", luaL_typename(L, -1));
    }
    if (lua_isnil(L, -1)) lua_pop(L, 1);
    else query.ctx = lua_gettop(L);       // stays on the stack
    read_body_option(L, request, options, query);
}

// The query at `index` of the table at 1. Leaves what it needs of Lua on the stack.
Query read_query(lua_State* L, Request& request, int index) {
    luaL_checkstack(L, 8, "too many subrequests");
    lua_rawgeti(L, 1, index + 1);
    if (lua_isnil(L, -1)) luaL_error(L, "only array-like tables are allowed");
    if (!lua_istable(L, -1))
        luaL_error(L, "the query argument %d is not a table, but a %s", index,
                   luaL_typename(L, -1));
    int query_at = lua_gettop(L);
    size_t count = lua_objlen(L, query_at);
    if (count != 1 && count != 2)
        luaL_error(L, "query argument %d expecting one or two arguments", index);
    Query query;
    if (count == 2) {
        lua_rawgeti(L, query_at, 2);
        if (!lua_istable(L, -1)) {
            luaL_error(L, "expecting table as the 2nd argument for subrequest %d, but got %s",
                       index, luaL_typename(L, -1));
        }
        read_options(L, request, lua_gettop(L), query);
    }
    lua_rawgeti(L, query_at, 1);
    core::Slice given = check_slice(L, -1);
    query.uri = request.arena.copy(given);
    core::Slice own;
    if (!server::split_internal_uri(request.arena, query.uri, own))
        luaL_error(L, "unsafe uri in argument #1: %s", lua_tostring(L, -1));
    query.args = join_args(request.arena, own, query.args);
    return query;
}

// ---- making the subrequests ----

bool set_child_variables(Request& child, const Query& query) {
    Request& parent = *child.parent;
    if (query.share_all_vars) {
        server::make_variables(parent);
        child.variables = parent.variables;
    } else {
        child.variables = nullptr;
        if (query.copy_all_vars && parent.variables) {
            server::make_variables(child);
            size_t count = server::Configuration::current().variables().count();
            std::memcpy(static_cast<void*>(child.variables), parent.variables,
                        count * sizeof(*parent.variables));
        }
    }
    for (auto [name, value] : query.vars) {
        const char* why = nullptr;
        std::string lower = core::to_lower(name);
        if (server::set_variable_by_name(child, lower, value, why)) continue;
        if (core::Slice(why).ends_with("\" not changeable")) {
            LOG(child.log, error, 0, "%s", why);
            return false;
        }
        LOG(child.log, error, 0,
            "variable \"%s\" cannot be assigned a value (maybe you forgot to define it first?) ",
            lower.c_str());
        return false;
    }
    return true;
}

void set_child_headers(Request& child, const Query& query) {
    child.headers.remove(server::HeaderId::content_length);
    child.headers.remove(server::HeaderId::transfer_encoding);
    child.head.content_length = -1;
    if (query.has_body) child.body.set_text(child, query.body);
    if (query.has_body || child.body.complete()) {
        char room[24];
        int64_t bytes = child.body.size();
        child.head.content_length = bytes;
        child.headers.add("Content-Length", child.arena.copy(core::format_number(bytes, room)));
    }
    for (auto [name, value] : query.headers) child.headers.set(name, value);
}

bool forwards_body(const Request& parent, const Query& query) {
    if (query.has_body) return false;
    bool carries = query.method_bit == 0x8 || query.method_bit == 0x10;
    return query.always_forward_body || carries || parent.head.content_length <= 0;
}

// ---- the wait and its results ----

struct Capture final : Op {
    int count = 0, pending = 0;
    Request** children;

    Capture(LuaThread& thread, int most) : Op(thread) {
        children = task().request->arena.make_array<Request*>(size_t(most));
        if (compat_openresty()) task().abort_refused = thread.unkillable = true;
    }
    ~Capture() override {
        for (int i = 0; i < count; ++i)
            if (children[i]) server::destroy_subrequest(*children[i]);
        task().abort_refused = thread().unkillable = false;
    }
    void finished() {
        if (--pending == 0) complete();
    }
    int push_results(lua_State* L) override;
    const char* name() const override { return "capture"; }
};

void child_finished(Request&, void* argument) { static_cast<Capture*>(argument)->finished(); }

// Null after logging when it cannot be had.
Request* make_child(lua_State* L, Request& parent, const Query& query, Capture& capture) {
    server::SubrequestOptions options;
    options.uri = query.uri;
    options.args = query.args;
    options.method = method_of(query.method_bit);
    if (options.method == Method::unknown) {
        LOG(parent.log, error, 0, "unsupported HTTP method: %d", query.method_bit);
        return nullptr;
    }
    options.method_name = server::method_name(options.method);
    options.inherit_body = forwards_body(parent, query);
    if (parent.subrequest_depth_left == 0) {
        LOG(parent.log, error, 0, "lua subrequests cycle while processing \"%.*s\"",
            int(query.uri.size()), query.uri.data());
        return nullptr;
    }
    Request* child = server::create_capture(parent, options, child_finished, &capture);
    if (!child) return nullptr;
    capture.children[capture.count++] = child;
    set_child_headers(*child, query);
    if (!set_child_variables(*child, query)) return nullptr;
    if (query.ctx) {
        lua_getfield(L, LUA_REGISTRYINDEX, "ngx_lua_ctx_tables");
        lua_pushvalue(L, query.ctx);
        LuaRequest::of(*child).ctx_ref = luaL_ref(L, -2);
        lua_pop(L, 1);
    }
    return child;
}

void append_file_range(std::string& to, const core::Buffer& range) {
    size_t at = to.size(), size = size_t(range.size());
    to.resize(at + size);
    int64_t from = range.file_begin;
    while (size > 0) {
        ssize_t got = pread(range.fd(), to.data() + at, size, from);
        if (got <= 0) break;
        at += size_t(got);
        from += got;
        size -= size_t(got);
    }
    to.resize(at);
}

void push_body(lua_State* L, const core::Chain& body) {
    const core::Buffer* head = body.head();
    if (head && (!head->next || head->next->size() == 0) && !head->is_file())
        return push_slice(L, head->text());
    std::string text;
    for (; head; head = head->next) {
        if (head->is_file()) append_file_range(text, *head);
        else text.append(head->text());
    }
    push_slice(L, text);
}

// A field into the table at the top; fields of one name become an array.
void push_field(lua_State* L, core::Slice name, core::Slice value) {
    push_slice(L, name);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        push_slice(L, value);
        return lua_rawset(L, -3);
    }
    if (!lua_istable(L, -1)) {
        lua_createtable(L, 4, 0);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1);
    }
    push_slice(L, value);
    lua_rawseti(L, -2, int(lua_objlen(L, -2)) + 1);
    lua_rawset(L, -3);
}

void push_headers(lua_State* L, const Request& child) {
    const server::Response& response = child.response;
    lua_createtable(L, 0, int(response.headers.size()) + 5);
    for (const server::Header& field : response.headers)
        if (!field.removed) push_field(L, field.name, field.value);
    if (!response.etag.empty()) push_field(L, "ETag", response.etag);
    if (!response.content_type.empty()) push_field(L, "Content-Type", response.content_type);
    if (response.content_length >= 0) {
        lua_pushnumber(L, double(response.content_length));
        lua_setfield(L, -2, "Content-Length");
    }
    if (!response.location.empty()) push_field(L, "Location", response.location);
    if (response.last_modified >= 0 && response.status < 300) {
        char date[32];
        core::format_http_date(response.last_modified, date);
        push_field(L, "Last-Modified", {date, 29});
    }
}

void push_response(lua_State* L, Request& child) {
    server::CapturedResponse& answer = server::captured(child);
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, answer.status ? answer.status : 500);
    lua_setfield(L, -2, "status");
    lua_pushboolean(L, answer.truncated);
    lua_setfield(L, -2, "truncated");
    push_body(L, answer.body);
    lua_setfield(L, -2, "body");
    push_headers(L, child);
    lua_setfield(L, -2, "header");
}

int Capture::push_results(lua_State* L) {
    lua_checkstack(L, count + 8);
    for (int i = 0; i < count; ++i) push_response(L, *children[i]);
    return count;
}

int capture_multi(lua_State* L) {
    int arguments = lua_gettop(L);
    if (arguments != 1)
        return luaL_error(L, "only one argument is expected, but got %d", arguments);
    luaL_checktype(L, 1, LUA_TTABLE);
    int count = int(lua_objlen(L, 1));
    if (count == 0) return luaL_error(L, "at least one subrequest should be specified");
    Request& request = request_of(L);
    LuaThread& thread = waiting_thread(L);
    std::vector<Query> queries;
    for (int i = 0; i < count; ++i) queries.push_back(read_query(L, request, i));
    auto* op = new (thread.op_room(sizeof(Capture))) Capture(thread, count);
    thread.pending = op;
    for (const Query& query : queries) {
        if (make_child(L, request, query, *op)) continue;
        thread.drop_op();
        return luaL_error(L, "failed to issue subrequest: -1");
    }
    op->pending = count;
    for (int i = 0; i < count; ++i) server::start_subrequest(*op->children[i]);
    thread.state = LuaThread::waiting;
    return yield_for_op(L);
}

// capture(uri, options) is capture_multi({{uri, options}}).
int capture(lua_State* L) {
    int count = lua_gettop(L);
    if (count != 1 && count != 2) return luaL_error(L, "expecting one or two arguments");
    lua_createtable(L, count, 0);
    lua_insert(L, 1);
    if (count == 2) lua_rawseti(L, 1, 2);
    lua_rawseti(L, 1, 1);
    lua_createtable(L, 1, 0);
    lua_insert(L, 1);
    lua_rawseti(L, 1, 1);
    return capture_multi(L);
}

constexpr PhaseMask in_capture =
    in(LuaPhase::rewrite, LuaPhase::access, LuaPhase::precontent, LuaPhase::content);
constexpr LuaFunction functions[] = {
    {"ngx.location.capture", capture, in_capture},
    {"ngx.location.capture_multi", capture_multi, in_capture},
};
REGISTER_LUA_API(capture, functions);

}  // namespace
}  // namespace lua
