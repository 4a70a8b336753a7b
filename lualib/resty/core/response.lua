-- ngx.header: the response's fields.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_cast = ffi.cast
local ffi_string = ffi.string
local new_tab = base.new_tab
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local errmsg = base.get_errmsg_ptr()
local FFI_OK = base.FFI_OK
local FFI_DECLINED = base.FFI_DECLINED
local FFI_NO_REQ_CTX = base.FFI_NO_REQ_CTX
local FFI_BAD_CONTEXT = base.FFI_BAD_CONTEXT
local tostring = tostring
local type = type
local error = error

ffi.cdef[[
int ngx_http_lua_ffi_set_resp_header(ngx_http_request_t *r, const char *key_data,
    size_t key_len, int is_nil, const char *sval, size_t sval_len,
    ngx_http_lua_ffi_str_t *mvals, size_t mvals_len, int override, char **errmsg);
int ngx_http_lua_ffi_get_resp_header(ngx_http_request_t *r, const unsigned char *key,
    size_t key_len, unsigned char *key_buf, ngx_http_lua_ffi_str_t *values, int max_nvalues,
    char **errmsg);
int ngx_http_lua_ffi_bypass_if_checks(ngx_http_request_t *r);
]]

local _M = { version = base.version }

local values_max = 100
local text_t = ffi.typeof("ngx_http_lua_ffi_str_t *")
local text_bytes = ffi.sizeof("ngx_http_lua_ffi_str_t")

local function check_set(rc)
    if rc == FFI_OK or rc == FFI_DECLINED then
        return
    end
    if rc == FFI_NO_REQ_CTX then
        error("no request ctx found")
    end
    if rc == FFI_BAD_CONTEXT then
        error("API disabled in the current context", 3)
    end
    error(ffi_string(errmsg[0]), 3)
end

-- `values` is changed in place: its strings must stay alive while C reads them.
local function set_list(r, key, values, override)
    local count = #values
    if count == 0 and override == 0 then
        return FFI_OK
    end
    local list = ffi_cast(text_t, get_string_buf(text_bytes * count))
    for i = 1, count do
        local value = values[i]
        if type(value) ~= "string" then
            value = tostring(value)
            values[i] = value
        end
        local text = list[i - 1]
        text.data = value
        text.len = #value
    end
    return C.ngx_http_lua_ffi_set_resp_header(r, key, #key, 0, nil, 0, list, count, override,
                                              errmsg)
end

local function set_resp_header(_, key, value, no_override)
    local r = get_request()
    if not r then
        error("no request found")
    end
    if type(key) ~= "string" then
        key = tostring(key)
    end
    local override = no_override and 0 or 1
    local rc
    if value == nil then
        if no_override then
            error("invalid header value", 3)
        end
        rc = C.ngx_http_lua_ffi_set_resp_header(r, key, #key, 1, nil, 0, nil, 0, 1, errmsg)
    elseif type(value) == "table" then
        rc = set_list(r, key, value, override)
    else
        if type(value) ~= "string" then
            value = tostring(value)
        end
        rc = C.ngx_http_lua_ffi_set_resp_header(r, key, #key, 0, value, #value, nil, 0, override,
                                                errmsg)
    end
    check_set(rc)
end
_M.set_resp_header = set_resp_header

local function get_resp_header(_, key)
    local r = get_request()
    if not r then
        error("no request found")
    end
    if type(key) ~= "string" then
        key = tostring(key)
    end
    local list_bytes = text_bytes * values_max
    local buffer = get_string_buf(list_bytes + #key)
    local values = ffi_cast(text_t, buffer)
    local count = C.ngx_http_lua_ffi_get_resp_header(r, key, #key, buffer + list_bytes, values,
                                                     values_max, errmsg)
    if count == 0 then
        return nil
    end
    if count == 1 then
        return (ffi_string(values[0].data, values[0].len))
    end
    if count == FFI_BAD_CONTEXT then
        error("API disabled in the current context", 2)
    end
    if count < 0 then
        error(ffi_string(errmsg[0]), 2)
    end
    local list = new_tab(count, 0)
    for i = 1, count do
        local value = values[i - 1]
        list[i] = ffi_string(value.data, value.len)
    end
    return list
end

function _M.bypass_if_checks()
    local r = get_request()
    if not r then
        error("no request found")
    end
    C.ngx_http_lua_ffi_bypass_if_checks(r)
end

ngx.header = setmetatable({}, { __index = get_resp_header, __newindex = set_resp_header })

return _M
