// ngx.header, ngx.resp.get_headers and what ngx.resp adds. The response keeps a few fields apart
// (type, length, date of change, tag): they are read and set there, all others in its list.
#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "core/text.h"
#include "lua/api/ffi.h"
#include "lua/api/uri.h"
#include "lua/conf.h"
#include "server/http/request.h"

namespace lua {
namespace {

using server::Header;
using server::HeaderId;
using server::Request;
using server::Response;

constexpr int headers_max_default = 100;
constexpr size_t http_date_bytes = 29;

core::Slice date_text(core::Arena& arena, int64_t when) {
    char* to = arena.bytes(http_date_bytes + 3);
    core::format_http_date(time_t(when), to);
    return {to, http_date_bytes};
}

core::Slice number_text(core::Arena& arena, int64_t value) {
    char room[24];
    return arena.copy(core::format_number(value, room));
}

// "_" stands for "-" in the names that scripts use, unless configured otherwise.
core::Slice field_name(const LuaTask& task, core::Slice key, char* to) {
    bool transform = !task.conf || task.conf->transform_underscores;
    if (!transform || key.find('_') == core::Slice::npos) return key;
    std::replace_copy(key.begin(), key.end(), to, '_', '-');
    return {to, key.size()};
}

void set_listed(Response& response, core::Slice key, core::Slice value, bool replace) {
    if (value.empty()) {
        if (replace) response.headers.remove(key);
    } else if (replace) {
        response.headers.set(key, value);
    } else {
        response.headers.add(key, value);
    }
}

bool set_content_length(Response& response, core::Slice value) {
    int64_t length = -1;
    if (!value.empty()) {
        auto parsed = core::parse_number(value);
        if (!parsed) return false;
        length = int64_t(*parsed);
    }
    response.content_length = length;
    response.headers.remove(HeaderId::content_length);
    return true;
}

// A date in any other form than ours is kept as it was written.
void set_last_modified(Request& request, core::Slice key, core::Slice value) {
    Response& response = request.response;
    response.last_modified = value.empty() ? -1 : core::parse_http_date(value);
    response.headers.remove(key);
    if (value.empty()) return;
    if (response.last_modified >= 0 &&
        date_text(request.arena, response.last_modified) == value) return;
    response.last_modified = -1;
    response.headers.set(key, value);
}

bool set_response_header(LuaTask& task, core::Slice key, core::Slice value, bool replace) {
    Request& request = *task.request;
    Response& response = request.response;
    key = escape_in(request.arena, key, Escape::header_name);
    value = escape_in(request.arena, value, Escape::header_value);
    switch (server::header_id(key)) {
    case HeaderId::content_type:
        response.content_type = value;
        response.content_type_cleared = value.empty();
        response.headers.remove(HeaderId::content_type);
        LuaRequest::of(request).mime_set = true;
        return true;
    case HeaderId::content_length:
        return set_content_length(response, value);
    case HeaderId::last_modified:
        set_last_modified(request, key, value);
        return true;
    case HeaderId::etag:
        response.etag = value;
        return true;
    case HeaderId::location:
        response.location = {};
        set_listed(response, key, value, true);
        return true;
    case HeaderId::server:
        response.server_given = true;
        set_listed(response, key, value, true);
        return true;
    case HeaderId::date:
        response.date_given = true;
        set_listed(response, key, value, true);
        return true;
    default:
        set_listed(response, key, value, replace);
        return true;
    }
}

// The fields kept apart; null data when `id` is not one of them or it is not set.
core::Slice special_value(Request& request, HeaderId id) {
    const Response& response = request.response;
    switch (id) {
    case HeaderId::content_type:
        return response.content_type;
    case HeaderId::content_length:
        if (response.content_length < 0) return {};
        return number_text(request.arena, response.content_length);
    case HeaderId::last_modified:
        if (response.last_modified < 0) return {};
        return date_text(request.arena, response.last_modified);
    case HeaderId::etag:
        return response.etag;
    case HeaderId::location:
        return response.location;
    default:
        return {};
    }
}

// Sets table[key] = value, or makes it a list of values. The table is on top of the stack.
void add_field(lua_State* L, core::Slice key, core::Slice value) {
    push_slice(L, key);
    lua_pushvalue(L, -1);
    lua_rawget(L, -3);
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        push_slice(L, value);
        lua_rawset(L, -3);
        return;
    }
    if (!lua_istable(L, -1)) {
        lua_createtable(L, 4, 0);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1);
        push_slice(L, key);
        lua_pushvalue(L, -2);
        lua_rawset(L, -5);
    }
    push_slice(L, value);
    lua_rawseti(L, -2, int(lua_objlen(L, -2)) + 1);
    lua_pop(L, 2);
}

// How many fields the response has that are not in its list; adds them to the table.
int add_special_fields(lua_State* L, Request& request) {
    Response& response = request.response;
    int count = 1;
    auto add = [&](core::Slice name, core::Slice value) {
        if (value.empty()) return;
        add_field(L, name, value);
        count++;
    };
    add("content-type", response.content_type);
    add("content-length", special_value(request, HeaderId::content_length));
    add("etag", response.etag);
    add("location", response.location);
    if (response.chunked) add("transfer-encoding", "chunked");
    core::Slice connection = response.status == 101 ? "upgrade"
                             : request.keep_alive   ? "keep-alive"
                                                    : "close";
    add_field(L, "connection", connection);
    return count;
}

constexpr char header_lookup[] = "lua_headers_metatable";

// Names in the table are lower-case with dashes: whatever else is asked for is looked up like that.
int look_up_header(lua_State* L) {
    size_t size;
    const char* name = luaL_checklstring(L, 2, &size);
    luaL_Buffer buffer;
    luaL_buffinit(L, &buffer);
    for (size_t n = 0; n < size; n++) {
        luaL_addchar(&buffer, name[n] == '_' ? '-' : core::lower(name[n]));
    }
    luaL_pushresult(&buffer);
    if (lua_rawequal(L, 2, -1)) return 0;
    lua_rawget(L, 1);
    return 1;
}

int get_headers(lua_State* L) {
    int max = headers_max_default;
    if (!lua_isnoneornil(L, 1)) max = int(luaL_checkinteger(L, 1));
    bool raw = lua_toboolean(L, 2);
    Request& request = request_of(L);
    lua_createtable(L, 0, int(request.response.headers.size()) + 4);
    if (!raw) {
        luaL_newmetatable(L, header_lookup);
        lua_setmetatable(L, -2);
    }
    int count = add_special_fields(L, request);
    for (const Header& header : request.response.headers) {
        if (header.removed) continue;
        if (max > 0 && count >= max) {
            lua_pushliteral(L, "truncated");
            return 2;
        }
        count++;
        if (raw) {
            add_field(L, header.name, header.value);
        } else {
            char* name = static_cast<char*>(lua_newuserdata(L, header.name.size() + 1));
            lua_insert(L, -2);
            core::lower_into(name, header.name);
            add_field(L, {name, header.name.size()}, header.value);
            lua_remove(L, -2);
        }
    }
    return 1;
}

void install(lua_State* L) {
    luaL_newmetatable(L, header_lookup);
    lua_pushcfunction(L, look_up_header);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

constexpr LuaFunction functions[] = {{"ngx.resp.get_headers", get_headers}};
REGISTER_LUA_API(response, functions, install);

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_set_resp_header(ngx_http_request_t* r, const char* key_data,
                                             size_t key_len, int is_nil, const char* sval,
                                             size_t sval_len, ngx_http_lua_ffi_str_t* mvals,
                                             size_t mvals_len, int override, char** errmsg) {
    if (!r->request) return lua::ffi_bad_context;
    server::Request& request = *r->request;
    if (request.header_sent()) {
        LOG(r->log(), error, 0,
            "attempt to set ngx.header.HEADER after sending out response headers");
        return lua::ffi_declined;
    }
    lua::LuaRequest::of(request).headers_set = true;
    core::Slice key = lua::slice(key_data, key_len);
    if (key.empty()) return lua::ffi_ok;
    if (key.find('_') != core::Slice::npos) {
        key = lua::field_name(*r, key, request.arena.bytes(key.size()));
    }
    bool good = true;
    if (!is_nil && mvals && mvals_len) {
        for (size_t n = 0; n < mvals_len && good; n++) {
            good = lua::set_response_header(*r, key, lua::slice(mvals[n]), override && n == 0);
        }
    } else {
        core::Slice value = is_nil || mvals ? core::Slice{} : lua::slice(sval, sval_len);
        good = lua::set_response_header(*r, key, value, override);
    }
    if (good) return lua::ffi_ok;
    *errmsg = const_cast<char*>("failed to set header");
    return lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_get_resp_header(ngx_http_request_t* r, const unsigned char* key,
                                             size_t key_len, unsigned char* key_buf,
                                             ngx_http_lua_ffi_str_t* values, int max_nvalues,
                                             char**) {
    if (!r->request) return lua::ffi_bad_context;
    server::Request& request = *r->request;
    core::Slice name =
        lua::field_name(*r, lua::slice(key, key_len), reinterpret_cast<char*>(key_buf));
    server::HeaderId id = server::header_id(name);
    core::Slice special = lua::special_value(request, id);
    if (!special.empty()) {
        lua::give(values[0], special);
        return 1;
    }
    int found = 0;
    for (const server::Header& header : request.response.headers) {
        if (header.removed || header.id != id || !core::iequals(header.name, name)) continue;
        lua::give(values[found], header.value);
        if (++found >= max_nvalues) break;
    }
    return found;
}

// A response that a script makes may be given out whatever the client's conditions say.
LUA_FFI int ngx_http_lua_ffi_bypass_if_checks(ngx_http_request_t* r) {
    if (!r->request) return lua::ffi_bad_context;
    r->request->response.disable_not_modified = true;
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_get_resp_status(ngx_http_request_t* r) {
    if (!r->request) return lua::ffi_bad_context;
    const server::Request& request = *r->request;
    if (request.response.status) return request.response.status;
    return request.head.version == 9 ? 9 : 0;
}

LUA_FFI int ngx_http_lua_ffi_set_resp_status_and_reason(ngx_http_request_t* r, int status,
                                                        const char* reason, size_t reason_len) {
    constexpr int status_min = 100, status_max = 999;
    if (!r->request) return lua::ffi_bad_context;
    server::Request& request = *r->request;
    if (request.header_sent()) {
        LOG(r->log(), error, 0,
            "attempt to set ngx.status after sending out response headers");
        return lua::ffi_declined;
    }
    if (status < status_min || status > status_max) {
        LOG(r->log(), error, 0, "invalid HTTP status code %d", status);
        return lua::ffi_declined;
    }
    server::Response& response = request.response;
    response.status = uint16_t(status);
    response.status_line = {};
    if (reason && reason_len) {
        core::Appender line(request.arena, reason_len + 4);
        line.append_number(status);
        line.append(' ');
        line.append(lua::slice(reason, reason_len));
        response.status_line = line.take();
    }
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_set_resp_status(ngx_http_request_t* r, int status) {
    return ngx_http_lua_ffi_set_resp_status_and_reason(r, status, nullptr, 0);
}

LUA_FFI int ngx_http_lua_ffi_headers_sent(ngx_http_request_t* r) {
    return r->request ? r->request->header_sent() : lua::ffi_bad_context;
}
