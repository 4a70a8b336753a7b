// What Lua reads and changes of a request's head: ngx.req.get_headers, set_header, get_uri_args,
// get_method, set_method, start_time, is_internal, … as FFI; raw_header and http_version as C
// functions. Its body is lua/api/req_body.cpp's.
#include <bit>
#include <cstdint>

#include "core/clock.h"
#include "core/text.h"
#include "lua/api/ffi.h"
#include "lua/api/uri.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace lua {
namespace {

using server::Header;
using server::HeaderId;
using server::Request;

constexpr int headers_max_default = 100;
constexpr int arguments_max_default = 100;
constexpr int elements_max = 1 << 20;        // of a Lua-supplied limit: keeps sums in an int

int limited(int count, int max, int fallback, int* truncated) {
    if (max < 0) max = fallback;
    *truncated = max > 0 && count > max;
    return *truncated ? max : count;
}

int visible_headers(const Request& request) {
    int count = 0;
    for (const Header& header : request.headers) count += !header.removed;
    return std::min(count, elements_max);
}

core::Slice lower_case(core::Arena& arena, core::Slice name) {
    char* to = arena.bytes(name.size());
    core::lower_into(to, name);
    return {to, name.size()};
}

bool is_lower(core::Slice name) {
    for (char c : name) {
        if (c >= 'A' && c <= 'Z') return false;
    }
    return true;
}

// A host name as nginx accepts it in the Host field: without port, lower-case. Null data: refused.
core::Slice valid_host(core::Arena& arena, core::Slice text) {
    size_t end = core::Slice::npos;
    if (text.starts_with('[')) {
        end = text.find(']');
        if (end != core::Slice::npos) end++;
    } else {
        end = text.find(':');
    }
    core::Slice host = text.substr(0, end);
    if (host.ends_with('.')) host.remove_suffix(1);
    if (host.empty() || host.find("..") != core::Slice::npos) return {};
    if (host.find('/') != core::Slice::npos || host.find('\0') != core::Slice::npos) return {};
    return lower_case(arena, host);
}

void forget_host_variable(Request& request) {
    int index = server::Configuration::current().variables().find("host");
    if (index >= 0 && request.variables) {
        request.variables[index].state = Request::VariableSlot::unset;
    }
}

// What else the server keeps of a field. False when the value cannot be accepted.
bool apply_special(Request& request, HeaderId id, core::Slice value) {
    if (id == HeaderId::host) {
        core::Slice host;
        if (!value.empty()) {
            host = valid_host(request.arena, value);
            if (!host.data()) return false;
        }
        request.head.host = host;
        forget_host_variable(request);
    } else if (id == HeaderId::content_length) {
        int64_t length = -1;
        if (!value.empty()) {
            auto parsed = core::parse_number(value);
            if (!parsed) return false;
            length = int64_t(*parsed);
        }
        request.head.content_length = length;
    }
    return true;
}

bool set_request_header(Request& request, core::Slice key, core::Slice value, bool replace) {
    key = escape_in(request.arena, key, Escape::header_name);
    value = escape_in(request.arena, value, Escape::header_value);
    HeaderId id = server::header_id(key);
    if (!apply_special(request, id, value)) return false;
    if (replace && value.empty()) {
        request.headers.remove(key);
    } else if (replace) {
        request.headers.set(key, value);
    } else {
        request.headers.add(key, value, id);
    }
    return true;
}

int http_version(lua_State* L) {
    lua_pushnumber(L, double(lua::request_of(L).head.version) / 10);
    return 1;
}

int raw_header(lua_State* L) {
    bool no_request_line = lua_toboolean(L, 1);
    Request& request = *lua::request_of(L).main;
    if (request.head.version >= 20) return luaL_error(L, "http2 requests not supported yet");
    core::Slice raw = request.head.raw, line = request.head.line;
    if (line.data() >= raw.data() && line.data() < raw.data() + raw.size()) {
        raw.remove_prefix(size_t(line.data() - raw.data()));
    }
    if (no_request_line) {
        size_t end = raw.find('\n');
        raw.remove_prefix(end == core::Slice::npos ? raw.size() : end + 1);
    }
    push_slice(L, raw);
    return 1;
}

constexpr LuaFunction functions[] = {
    {"ngx.req.http_version", http_version},
    {"ngx.req.raw_header", raw_header},
};
REGISTER_LUA_API(request, functions);

}  // namespace
}  // namespace lua

LUA_FFI double ngx_http_lua_ffi_req_start_time(ngx_http_request_t* r) {
    return r->request ? double(r->request->start_ms) / 1000 : double(core::Clock::wall_ms()) / 1000;
}

LUA_FFI int ngx_http_lua_ffi_req_get_headers_count(ngx_http_request_t* r, int max,
                                                   int* truncated) {
    if (!r->request) return lua::ffi_bad_context;
    return lua::limited(lua::visible_headers(*r->request), max, lua::headers_max_default,
                        truncated);
}

LUA_FFI int ngx_http_lua_ffi_req_get_headers(ngx_http_request_t* r,
                                             ngx_http_lua_ffi_table_elt_t* out, int count,
                                             int raw) {
    if (!r->request) return lua::ffi_bad_context;
    server::Request& request = *r->request;
    for (const server::Header& header : request.headers) {
        if (count <= 0) break;
        if (header.removed) continue;
        core::Slice name = header.name;
        if (!raw && !lua::is_lower(name)) name = lua::lower_case(request.arena, name);
        lua::give(out->key, name);
        lua::give(out->value, header.value);
        out++;
        count--;
    }
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_req_set_header(ngx_http_request_t* r, const unsigned char* key,
                                            size_t key_len, const unsigned char* value,
                                            size_t value_len, ngx_http_lua_ffi_str_t* mvals,
                                            size_t mvals_len, int override, char** errmsg) {
    if (!r->request) return lua::ffi_bad_context;
    server::Request& request = *r->request;
    if (request.head.version < 10) return lua::ffi_declined;
    core::Slice name = lua::slice(key, key_len);
    bool good = true;
    if (mvals && mvals_len) {
        for (size_t n = 0; n < mvals_len && good; n++) {
            good = lua::set_request_header(request, name, lua::slice(mvals[n]),
                                           override && n == 0);
        }
    } else {
        core::Slice text = mvals || !value ? core::Slice{} : lua::slice(value, value_len);
        good = lua::set_request_header(request, name, text, override);
    }
    if (good) return lua::ffi_ok;
    *errmsg = const_cast<char*>("failed to set header");
    return lua::ffi_error;
}

LUA_FFI int ngx_http_lua_ffi_req_get_uri_args_count(ngx_http_request_t* r, int max,
                                                    int* truncated) {
    if (!r->request) return lua::ffi_bad_context;
    core::Slice args = r->request->args;
    *truncated = 0;
    if (args.empty()) return 0;
    auto separators = std::count(args.begin(), args.end(), '&');
    int count = int(std::min<int64_t>(separators, lua::elements_max)) + 1;
    if (count == 1) return 1;
    return lua::limited(count, max, lua::arguments_max_default, truncated);
}

LUA_FFI size_t ngx_http_lua_ffi_req_get_querystring_len(ngx_http_request_t* r) {
    return r->request ? r->request->args.size() : 0;
}

// Decodes into buf, which has room for the whole query string. Keys without a value have length -1.
LUA_FFI int ngx_http_lua_ffi_req_get_uri_args(ngx_http_request_t* r, unsigned char* buf,
                                              ngx_http_lua_ffi_table_elt_t* out, int count) {
    if (!r->request) return lua::ffi_bad_context;
    lua::ArgumentReader reader(r->request->args);
    core::Slice key, value;
    bool has_value = false;
    char* to = reinterpret_cast<char*>(buf);
    int found = 0;
    while (found < count && reader.next(key, value, has_value)) {
        size_t key_bytes = lua::unescape_into(to, key);
        if (!key_bytes) continue;
        lua::give(out[found].key, {to, key_bytes});
        to += key_bytes;
        size_t value_bytes = lua::unescape_into(to, value);
        lua::give(out[found].value, {to, value_bytes});
        if (!has_value) out[found].value.len = -1;
        to += value_bytes;
        found++;
    }
    return found;
}

// Methods have nginx's numbers: one bit each, in the order of server::Method.
LUA_FFI int ngx_http_lua_ffi_req_get_method(ngx_http_request_t* r) {
    if (!r->request) return lua::ffi_bad_context;
    return 1 << int(r->request->method);
}

LUA_FFI int ngx_http_lua_ffi_req_get_method_name(ngx_http_request_t* r, unsigned char** name,
                                                 size_t* len) {
    if (!r->request) return lua::ffi_bad_context;
    *name = lua::bytes_of(r->request->head.method_name);
    *len = r->request->head.method_name.size();
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_req_set_method(ngx_http_request_t* r, int method) {
    if (!r->request) return lua::ffi_bad_context;
    constexpr unsigned known = (1u << (int(server::Method::trace) + 1)) - 2;
    auto bits = unsigned(method);
    if (!std::has_single_bit(bits) || !(bits & known)) return lua::ffi_declined;
    r->request->method = server::Method(std::countr_zero(bits));
    r->request->head.method_name = server::method_name(r->request->method);
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_req_is_internal(ngx_http_request_t* r) {
    return r->request ? r->request->internal : lua::ffi_bad_context;
}
