-- ngx.shared.DICT: what neither walks the dictionary nor handles lists, as FFI. The other methods
-- are C functions (lua/api/shdict.cpp).

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_new = ffi.new
local ffi_string = ffi.string
local get_string_buf = base.get_string_buf
local get_string_buf_size = base.get_string_buf_size
local get_size_ptr = base.get_size_ptr
local errmsg = base.get_errmsg_ptr()
local FFI_DECLINED = base.FFI_DECLINED
local tonumber = tonumber
local tostring = tostring
local type = type
local error = error

local _M = { version = base.version }

if not ngx.shared then
    return _M
end

ffi.cdef[[
int ngx_http_lua_ffi_shdict_get(void *zone, const unsigned char *key, size_t key_len,
    int *value_type, unsigned char **str_value_buf, size_t *str_value_len, double *num_value,
    int *user_flags, int get_stale, int *is_stale, char **errmsg);
int ngx_http_lua_ffi_shdict_incr(void *zone, const unsigned char *key, size_t key_len,
    double *value, char **err, int has_init, double init, long init_ttl, int *forcible);
int ngx_http_lua_ffi_shdict_store(void *zone, int op, const unsigned char *key, size_t key_len,
    int value_type, const unsigned char *str_value_buf, size_t str_value_len, double num_value,
    long exptime, int user_flags, char **errmsg, int *forcible);
int ngx_http_lua_ffi_shdict_flush_all(void *zone);
long ngx_http_lua_ffi_shdict_get_ttl(void *zone, const unsigned char *key, size_t key_len);
int ngx_http_lua_ffi_shdict_set_expire(void *zone, const unsigned char *key, size_t key_len,
    long exptime);
size_t ngx_http_lua_ffi_shdict_capacity(void *zone);
size_t ngx_http_lua_ffi_shdict_free_space(void *zone);
void *ngx_http_lua_ffi_shdict_udata_to_zone(void *zone_udata);
void free(void *ptr);
]]

-- ways of storing
local adds, replaces, safely = 0x1, 0x2, 0x4
-- types of values: Lua's own numbers
local type_nil, type_boolean, type_number, type_string = 0, 1, 3, 4
local key_bytes_max = 65535

local value_type = ffi_new("int[1]")
local user_flags = ffi_new("int[1]")
local number = ffi_new("double[1]")
local is_stale = ffi_new("int[1]")
local forcible = ffi_new("int[1]")
local text = ffi_new("unsigned char *[1]")

local function zone_of(dict, level)
    local handle = type(dict) == "table" and dict[1]
    if type(handle) ~= "userdata" then
        error("bad \"zone\" argument", level or 3)
    end
    local zone = C.ngx_http_lua_ffi_shdict_udata_to_zone(handle)
    if zone == nil then
        error("bad \"zone\" argument", level or 3)
    end
    return zone
end

-- Of a method's arguments: the zone, and the key as a string or nil and what is wrong with it.
local function zone_and_key(dict, key)
    local zone = zone_of(dict, 4)
    if key == nil then
        return zone, nil, "nil key"
    end
    if type(key) ~= "string" then
        key = tostring(key)
    end
    if #key == 0 then
        return zone, nil, "empty key"
    end
    if #key > key_bytes_max then
        return zone, nil, "key too long"
    end
    return zone, key
end

-- ---- storing ----

local function store(zone, op, key, value, exptime, flags)
    local kind, string_value, number_value = type(value), nil, 0
    if kind == "string" then
        kind, string_value = type_string, value
    elseif kind == "number" then
        kind, number_value = type_number, value
    elseif kind == "nil" then
        kind = type_nil
    elseif kind == "boolean" then
        kind, number_value = type_boolean, value and 1 or 0
    else
        return nil, "bad value type"
    end
    local rc = C.ngx_http_lua_ffi_shdict_store(zone, op, key, #key, kind, string_value,
                                               string_value and #value or 0, number_value,
                                               exptime * 1000, flags or 0, errmsg, forcible)
    if rc == 0 then
        return true, nil, forcible[0] == 1
    end
    return false, ffi_string(errmsg[0]), forcible[0] == 1
end

local function storing(op)
    return function(dict, key, value, exptime, flags)
        local zone, name, why = zone_and_key(dict, key)
        exptime = exptime or 0
        if exptime < 0 then
            error('bad "exptime" argument', 2)
        end
        if not name then
            return nil, why
        end
        return store(zone, op, name, value, exptime, flags)
    end
end

local set = storing(0)

local function delete(dict, key)
    return set(dict, key, nil)
end

-- ---- reading ----

local function value_read(own_buffer)
    local kind = value_type[0]
    if kind == type_string then
        local data = text[0]
        local value = ffi_string(data, get_size_ptr()[0])
        if data ~= own_buffer then
            C.free(data)         -- longer than our buffer
        end
        return value
    end
    if kind == type_number then
        return (tonumber(number[0]))
    end
    if kind == type_boolean then
        return text[0][0] ~= 0
    end
    error("unknown value type: " .. kind)
end

local function read(zone, key, stale)
    local size = get_string_buf_size()
    local buffer = get_string_buf(size)
    local own_buffer = ffi.cast("unsigned char *", buffer)
    local length = get_size_ptr()
    text[0] = buffer
    length[0] = size
    local rc = C.ngx_http_lua_ffi_shdict_get(zone, key, #key, value_type, text, length, number,
                                             user_flags, stale, is_stale, errmsg)
    if rc ~= 0 then
        if errmsg[0] ~= nil then
            return nil, ffi_string(errmsg[0])
        end
        error("failed to get the key")
    end
    if value_type[0] == type_nil then
        return nil
    end
    return value_read(own_buffer), tonumber(user_flags[0])
end

local function get(dict, key)
    local zone, name, why = zone_and_key(dict, key)
    if not name then
        return nil, why
    end
    local value, flags = read(zone, name, 0)
    if flags and flags ~= 0 then
        return value, flags
    end
    return value
end

local function get_stale(dict, key)
    local zone, name, why = zone_and_key(dict, key)
    if not name then
        return nil, why
    end
    local value, flags = read(zone, name, 1)
    if value == nil then
        if flags then
            return nil, flags            -- the error
        end
        return nil
    end
    if flags == 0 then
        flags = nil
    end
    return value, flags, is_stale[0] == 1
end

-- ---- counting ----

local function as_number(value, name)
    if type(value) == "number" then
        return value
    end
    return (tonumber(value))
        or error("bad " .. name .. " arg: number expected, got " .. type(value), 3)
end

local function incr(dict, key, value, init, init_ttl)
    local zone, name, why = zone_and_key(dict, key)
    if not name then
        return nil, why
    end
    if type(value) ~= "number" then
        value = tonumber(value)
    end
    number[0] = value
    if init then
        init = as_number(init, "init")
    end
    if init_ttl ~= nil then
        init_ttl = as_number(init_ttl, "init_ttl")
        if init_ttl < 0 then
            error('bad "init_ttl" argument', 2)
        end
        if not init then
            error('must provide "init" when providing "init_ttl"', 2)
        end
    end
    local rc = C.ngx_http_lua_ffi_shdict_incr(zone, name, #name, number, errmsg, init and 1 or 0,
                                              init or 0, (init_ttl or 0) * 1000, forcible)
    if rc ~= 0 then
        return nil, ffi_string(errmsg[0])
    end
    if not init then
        return (tonumber(number[0]))
    end
    return tonumber(number[0]), nil, forcible[0] == 1
end

-- ---- times and sizes ----

local function ttl(dict, key)
    local zone, name, why = zone_and_key(dict, key)
    if not name then
        return nil, why
    end
    local left = tonumber(C.ngx_http_lua_ffi_shdict_get_ttl(zone, name, #name))
    if left == FFI_DECLINED then
        return nil, "not found"
    end
    return left / 1000
end

local function expire(dict, key, exptime)
    if not exptime then
        error('bad "exptime" argument', 2)
    end
    local zone, name, why = zone_and_key(dict, key)
    if not name then
        return nil, why
    end
    if C.ngx_http_lua_ffi_shdict_set_expire(zone, name, #name, exptime * 1000) == FFI_DECLINED then
        return nil, "not found"
    end
    return true
end

local methods = {
    get = get,
    get_stale = get_stale,
    incr = incr,
    set = set,
    safe_set = storing(safely),
    add = storing(adds),
    safe_add = storing(adds + safely),
    replace = storing(replaces),
    delete = delete,
    ttl = ttl,
    expire = expire,
    flush_all = function(dict)
        C.ngx_http_lua_ffi_shdict_flush_all(zone_of(dict))
    end,
    capacity = function(dict)
        return (tonumber(C.ngx_http_lua_ffi_shdict_capacity(zone_of(dict))))
    end,
    free_space = function(dict)
        return (tonumber(C.ngx_http_lua_ffi_shdict_free_space(zone_of(dict))))
    end,
}

-- All dictionaries have one metatable.
local _, dict = next(ngx.shared)
local mt = dict and getmetatable(dict)
if mt and mt.__index then
    for name, method in pairs(methods) do
        mt.__index[name] = method
    end
end

return _M
