// ngx.var: variables and captures of the current request.
#include "core/text.h"
#include "lua/api/ffi.h"
#include "server/http/request.h"
#include "server/http/variables.h"

namespace lua {
namespace {

constexpr const char* disabled = "API disabled in the current context";

int get_capture(const server::Request& request, int id, char** value, size_t* value_len) {
    const server::Captures& captures = request.captures;
    if (id <= 0 || id >= captures.count) return ffi_declined;
    core::Slice text = captures.group(id);
    *value = const_cast<char*>(text.data());
    *value_len = text.size();
    return ffi_ok;
}

}  // namespace
}  // namespace lua

LUA_FFI int ngx_http_lua_ffi_var_get(ngx_http_request_t* r, const char* name_data,
                                     size_t name_len, char* lowcase_buf, int capture_id,
                                     char** value, size_t* value_len, char** err) {
    if (!r || !r->request) {
        *err = const_cast<char*>(r ? lua::disabled : "no request object found");
        return lua::ffi_error;
    }
    server::Request& request = *r->request;
    if (!name_data) return lua::get_capture(request, capture_id, value, value_len);
    core::Slice name = lua::slice(name_data, name_len);
    core::lower_into(lowcase_buf, name);
    server::Value found = server::variable_by_name(request, {lowcase_buf, name_len});
    if (!found.found) return lua::ffi_declined;
    *value = const_cast<char*>(found.text.data());
    *value_len = found.text.size();
    return lua::ffi_ok;
}

LUA_FFI int ngx_http_lua_ffi_var_set(ngx_http_request_t* r, const unsigned char* name_data,
                                     size_t name_len, unsigned char* lowcase_buf,
                                     const unsigned char* value, size_t value_len,
                                     unsigned char* errbuf, size_t* errlen) {
    if (!r) return lua::ffi_fail("no request object found", errbuf, errlen);
    if (!r->request) return lua::ffi_fail(lua::disabled, errbuf, errlen);
    server::Request& request = *r->request;
    char* lower = reinterpret_cast<char*>(lowcase_buf);
    core::lower_into(lower, lua::slice(name_data, name_len));
    core::Slice name{lower, name_len};
    core::Slice text;
    if (value && value_len) text = request.arena.copy_z(lua::slice(value, value_len));
    const char* why = nullptr;
    if (!server::set_variable_by_name(request, name, text, why)) {
        return lua::ffi_fail(why, errbuf, errlen);
    }
    if (!value) {
        int index = server::Configuration::current().variables().find(name);
        if (index >= 0) server::clear_variable(request, index);
    }
    return lua::ffi_ok;
}
