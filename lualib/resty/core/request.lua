-- ngx.req: the request's head.

local ffi = require "ffi"
local base = require "resty.core.base"
local utils = require "resty.core.utils"

local C = ffi.C
local ffi_cast = ffi.cast
local ffi_new = ffi.new
local ffi_string = ffi.string
local clear_tab = base.clear_tab
local new_tab = base.new_tab
local get_request = base.get_request
local get_string_buf = base.get_string_buf
local get_size_ptr = base.get_size_ptr
local errmsg = base.get_errmsg_ptr()
local FFI_OK = base.FFI_OK
local FFI_DECLINED = base.FFI_DECLINED
local FFI_BAD_CONTEXT = base.FFI_BAD_CONTEXT
local replace_char = utils.str_replace_char
local find = string.find
local lower = string.lower
local rawget = rawget
local setmetatable = setmetatable
local tonumber = tonumber
local tostring = tostring
local type = type
local error = error
local ngx = ngx

ffi.cdef[[
typedef struct {
    ngx_http_lua_ffi_str_t   key;
    ngx_http_lua_ffi_str_t   value;
} ngx_http_lua_ffi_table_elt_t;

double ngx_http_lua_ffi_req_start_time(ngx_http_request_t *r);
int ngx_http_lua_ffi_req_get_headers_count(ngx_http_request_t *r, int max, int *truncated);
int ngx_http_lua_ffi_req_get_headers(ngx_http_request_t *r, ngx_http_lua_ffi_table_elt_t *out,
    int count, int raw);
int ngx_http_lua_ffi_req_get_uri_args_count(ngx_http_request_t *r, int max, int *truncated);
size_t ngx_http_lua_ffi_req_get_querystring_len(ngx_http_request_t *r);
int ngx_http_lua_ffi_req_get_uri_args(ngx_http_request_t *r, unsigned char *buf,
    ngx_http_lua_ffi_table_elt_t *out, int count);
int ngx_http_lua_ffi_req_get_method(ngx_http_request_t *r);
int ngx_http_lua_ffi_req_get_method_name(ngx_http_request_t *r, unsigned char **name,
    size_t *len);
int ngx_http_lua_ffi_req_set_method(ngx_http_request_t *r, int method);
int ngx_http_lua_ffi_req_set_header(ngx_http_request_t *r, const unsigned char *key,
    size_t key_len, const unsigned char *value, size_t value_len,
    ngx_http_lua_ffi_str_t *mvals, size_t mvals_len, int override, char **errmsg);
]]

local _M = { version = base.version }

local element_t = ffi.typeof("ngx_http_lua_ffi_table_elt_t *")
local element_bytes = ffi.sizeof("ngx_http_lua_ffi_table_elt_t")
local text_t = ffi.typeof("ngx_http_lua_ffi_str_t *")
local text_bytes = ffi.sizeof("ngx_http_lua_ffi_str_t")
local truncated = ffi_new("int[1]")

local function request()
    return get_request() or error("no request found", 3)
end

local function disabled(level)
    error("API disabled in the current context", level + 1)
end

function ngx.req.start_time()
    return (tonumber(C.ngx_http_lua_ffi_req_start_time(request())))
end

-- A key seen before has a list of its values.
local function add(fields, key, value)
    local present = fields[key]
    if not present then
        fields[key] = value
    elseif type(present) == "table" then
        present[#present + 1] = value
    else
        fields[key] = { present, value }
    end
end

local function text_of(text)
    return (ffi_string(text.data, text.len))
end

-- ---- headers ----

-- Keys are lower-case; whatever else is asked for is looked up so, with "_" for "-".
local headers_mt = {
    __index = function(headers, key)
        key = lower(key)
        local value = rawget(headers, key)
        if value == nil and find(key, "_", 1, true) then
            value = rawget(headers, (replace_char(key, "_", "-")))
        end
        return value
    end,
}

function ngx.req.get_headers(max, raw)
    local r = request()
    local count = C.ngx_http_lua_ffi_req_get_headers_count(r, max or -1, truncated)
    if count == FFI_BAD_CONTEXT then
        disabled(2)
    end
    local headers = new_tab(0, count)
    local cut = truncated[0] ~= 0
    if count > 0 then
        local list = ffi_cast(element_t, get_string_buf(count * element_bytes))
        C.ngx_http_lua_ffi_req_get_headers(r, list, count, raw and 1 or 0)
        for i = 0, count - 1 do
            local header = list[i]
            add(headers, text_of(header.key), text_of(header.value))
        end
    end
    if not raw then
        setmetatable(headers, headers_mt)
    end
    if cut then
        return headers, "truncated"
    end
    return headers
end

-- A table's values, made strings in place (so that they stay alive), as C sees them.
local function text_array(values, count)
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
    return list
end

local function check_set(rc, level)
    if rc == FFI_OK or rc == FFI_DECLINED then
        return
    end
    if rc == FFI_BAD_CONTEXT then
        disabled(level + 1)
    end
    error(ffi_string(errmsg[0]))
end

local function clear_req_header(r, name)
    return (C.ngx_http_lua_ffi_req_set_header(r, name, #name, nil, 0, nil, 0, 1, errmsg))
end

local function set_req_header(name, value, override)
    local r = get_request()
    if not r then
        error("no request found", 3)
    end
    if name == nil then
        error("bad 'name' argument: string expected, got nil", 3)
    end
    if type(name) ~= "string" then
        name = tostring(name)
    end
    local flag = override and 1 or 0
    if value == nil then
        if not override then
            error("bad 'value' argument: string or table expected, got nil", 3)
        end
        return check_set(clear_req_header(r, name), 3)
    end
    if type(value) == "table" then
        local count = #value
        if count == 0 and not override then
            error("bad 'value' argument: non-empty table expected", 3)
        end
        local list = text_array(value, count)
        return check_set(C.ngx_http_lua_ffi_req_set_header(r, name, #name, nil, 0, list, count,
                                                           flag, errmsg), 3)
    end
    if type(value) ~= "string" then
        value = tostring(value)
    end
    return check_set(C.ngx_http_lua_ffi_req_set_header(r, name, #name, value, #value, nil, 0,
                                                       flag, errmsg), 3)
end
_M.set_req_header = set_req_header

function ngx.req.set_header(name, value)
    set_req_header(name, value, true)
end

function ngx.req.clear_header(name)
    local r = request()
    if type(name) ~= "string" then
        name = tostring(name)
    end
    check_set(clear_req_header(r, name), 2)
end

-- ---- query string ----

function ngx.req.get_uri_args(max, args)
    local r = request()
    if args then
        clear_tab(args)
    end
    local count = C.ngx_http_lua_ffi_req_get_uri_args_count(r, max or -1, truncated)
    if count == FFI_BAD_CONTEXT then
        disabled(2)
    end
    local cut = truncated[0] ~= 0
    args = args or new_tab(0, count)
    if count > 0 then
        local length = tonumber(C.ngx_http_lua_ffi_req_get_querystring_len(r))
        -- the decoded text, and behind it the pairs that point into it
        local buffer = get_string_buf(length + 8 + count * element_bytes)
        local list = ffi_cast(element_t, buffer + length + (-length % 8))
        local given = C.ngx_http_lua_ffi_req_get_uri_args(r, buffer, list, count)
        for i = 0, given - 1 do
            local pair = list[i]
            local value = pair.value
            if value.len == -1 then
                add(args, text_of(pair.key), true)
            else
                add(args, text_of(pair.key), ffi_string(value.data, value.len))
            end
        end
    end
    if cut then
        return args, "truncated"
    end
    return args
end

-- ---- method ----

local method_names = {
    [0x2] = "GET",
    [0x4] = "HEAD",
    [0x8] = "POST",
    [0x10] = "PUT",
    [0x20] = "DELETE",
    [0x40] = "MKCOL",
    [0x80] = "COPY",
    [0x100] = "MOVE",
    [0x200] = "OPTIONS",
    [0x400] = "PROPFIND",
    [0x800] = "PROPPATCH",
    [0x1000] = "LOCK",
    [0x2000] = "UNLOCK",
    [0x4000] = "PATCH",
    [0x8000] = "TRACE",
}
local name_pointer = ffi_new("unsigned char *[1]")

function ngx.req.get_method()
    local r = request()
    local id = C.ngx_http_lua_ffi_req_get_method(r)
    if id == FFI_BAD_CONTEXT then
        disabled(2)
    end
    local name = method_names[id]
    if name then
        return name
    end
    local length = get_size_ptr()
    if C.ngx_http_lua_ffi_req_get_method_name(r, name_pointer, length) ~= FFI_OK then
        return nil
    end
    return (ffi_string(name_pointer[0], length[0]))
end

function ngx.req.set_method(method)
    local r = request()
    if type(method) ~= "number" then
        error("bad method number", 2)
    end
    local rc = C.ngx_http_lua_ffi_req_set_method(r, method)
    if rc == FFI_OK then
        return
    end
    if rc == FFI_BAD_CONTEXT then
        disabled(2)
    end
    if rc == FFI_DECLINED then
        error("unsupported HTTP method: " .. method, 2)
    end
    error("unknown error: " .. rc)
end

return _M
