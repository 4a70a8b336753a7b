-- ndk.set_var: the functions behind set_escape_uri and its kind, called from Lua.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_string = ffi.string
local get_request = base.get_request
local FFI_OK = base.FFI_OK
local tostring = tostring
local type = type
local error = error

ffi.cdef[[
typedef void *ndk_set_var_value_pt;

int ngx_http_lua_ffi_ndk_lookup_directive(const unsigned char *var_data, size_t var_len,
    ndk_set_var_value_pt *func);
int ngx_http_lua_ffi_ndk_set_var_get(ngx_http_request_t *r, ndk_set_var_value_pt func,
    const unsigned char *arg_data, size_t arg_len, ngx_http_lua_ffi_str_t *value);
]]

local pointer = ffi.new("void *[1]")
local value = ffi.new("ngx_http_lua_ffi_str_t[1]")

local function find_function(_, name)
    if type(name) ~= "string" then
        name = tostring(name)
    end
    if C.ngx_http_lua_ffi_ndk_lookup_directive(name, #name, pointer) ~= FFI_OK then
        error('ndk.set_var: directive "' .. name
              .. '" not found or does not use ndk_set_var_value', 2)
    end
    local func = pointer[0]

    return function(argument)
        local r = get_request()
        if not r then
            error("no request found")
        end
        if type(argument) ~= "string" then
            argument = tostring(argument)
        end
        local rc = C.ngx_http_lua_ffi_ndk_set_var_get(r, func, argument, #argument, value)
        if rc ~= FFI_OK then
            error("calling directive " .. name .. " failed with code " .. rc, 2)
        end
        return (ffi_string(value[0].data, value[0].len))
    end
end

if ndk then
    ndk.set_var = setmetatable({}, {
        __index = find_function,
        __newindex = function()
            error("not allowed", 2)
        end,
    })
end

return { version = base.version }
