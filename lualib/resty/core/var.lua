-- ngx.var.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_new = ffi.new
local ffi_string = ffi.string
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local errmsg = base.get_errmsg_ptr()
local FFI_OK = base.FFI_OK
local FFI_ERROR = base.FFI_ERROR
local type = type
local error = error
local tostring = tostring

ffi.cdef[[
int ngx_http_lua_ffi_var_get(ngx_http_request_t *r, const char *name_data, size_t name_len,
    char *lowcase_buf, int capture_id, char **value, size_t *value_len, char **err);
int ngx_http_lua_ffi_var_set(ngx_http_request_t *r, const unsigned char *name_data,
    size_t name_len, unsigned char *lowcase_buf, const unsigned char *value, size_t value_len,
    unsigned char *errbuf, size_t *errlen);
]]

local error_bytes = 256
local value = ffi_new("char *[1]")

local function var_get(_, name)
    local r = get_request()
    if not r then
        error("no request found")
    end
    local length = get_size_ptr()
    local rc
    if type(name) == "number" then
        rc = C.ngx_http_lua_ffi_var_get(r, nil, 0, nil, name, value, length, errmsg)
    elseif type(name) == "string" then
        local lower = get_string_buf(#name)
        rc = C.ngx_http_lua_ffi_var_get(r, name, #name, lower, 0, value, length, errmsg)
    else
        error("bad variable name", 2)
    end
    if rc == FFI_OK then
        return (ffi_string(value[0], length[0]))
    end
    if rc == FFI_ERROR then
        error(ffi_string(errmsg[0]), 2)
    end
    return nil
end

local function var_set(_, name, new)
    local r = get_request()
    if not r then
        error("no request found")
    end
    if type(name) ~= "string" then
        error("bad variable name", 2)
    end
    if new ~= nil and type(new) ~= "string" then
        new = tostring(new)
    end
    local length = get_size_ptr()
    length[0] = error_bytes
    local lower = get_string_buf(#name + error_bytes)
    local why = lower + #name
    local rc = C.ngx_http_lua_ffi_var_set(r, name, #name, lower, new, new and #new or 0, why,
                                          length)
    if rc == FFI_ERROR then
        error(ffi_string(why, length[0]), 2)
    end
end

ngx.var = setmetatable({}, { __index = var_get, __newindex = var_set })

return { version = base.version }
