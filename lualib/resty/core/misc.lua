-- Fields of ngx that are asked for as one reads them: ngx.status, ngx.headers_sent,
-- ngx.is_subrequest (ngx.ctx is ctx.lua's); ngx.req.is_internal; os.getenv in init_by_lua.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_new = ffi.new
local ffi_string = ffi.string
local get_request = base.get_request
local FFI_OK = base.FFI_OK
local FFI_BAD_CONTEXT = base.FFI_BAD_CONTEXT
local FFI_NO_REQ_CTX = base.FFI_NO_REQ_CTX
local rawget = rawget
local rawset = rawset
local type = type
local error = error
local tonumber = tonumber

ffi.cdef[[
int ngx_http_lua_ffi_get_resp_status(ngx_http_request_t *r);
int ngx_http_lua_ffi_set_resp_status(ngx_http_request_t *r, int r);
int ngx_http_lua_ffi_is_subrequest(ngx_http_request_t *r);
int ngx_http_lua_ffi_headers_sent(ngx_http_request_t *r);
int ngx_http_lua_ffi_req_is_internal(ngx_http_request_t *r);
int ngx_http_lua_ffi_get_conf_env(const unsigned char *name, unsigned char **env_buf,
    size_t *name_len);
]]

local _M = { _VERSION = base.version }

local getters, setters = {}, {}

function _M.register_ngx_magic_key_getter(key, get)
    getters[key] = get
end

function _M.register_ngx_magic_key_setter(key, set)
    setters[key] = set
end

setmetatable(ngx, {
    __index = function(ngx_table, key)
        local get = getters[key]
        if get then
            return get()
        end
        return rawget(ngx_table, key)
    end,
    __newindex = function(ngx_table, key, value)
        local set = setters[key]
        if set then
            return set(value)
        end
        return rawset(ngx_table, key, value)
    end,
})

local function request()
    return get_request() or error("no request found", 3)
end

local function check(rc)
    if rc == FFI_NO_REQ_CTX then
        error("no request ctx found", 3)
    end
    if rc == FFI_BAD_CONTEXT then
        error("API disabled in the current context", 3)
    end
    return rc
end

function getters.status()
    return (check(C.ngx_http_lua_ffi_get_resp_status(request())))
end

function setters.status(status)
    local r = request()
    if type(status) ~= "number" then
        status = tonumber(status)
    end
    check(C.ngx_http_lua_ffi_set_resp_status(r, status))
end

function getters.is_subrequest()
    return check(C.ngx_http_lua_ffi_is_subrequest(request())) == 1
end

function getters.headers_sent()
    return check(C.ngx_http_lua_ffi_headers_sent(request())) == 1
end

function ngx.req.is_internal()
    return check(C.ngx_http_lua_ffi_req_is_internal(request())) == 1
end

-- Before the workers exist, `env NAME=value` has not reached the environment yet.
do
    local getenv = os.getenv
    local entry = ffi_new("unsigned char *[1]")

    os.getenv = function(name)
        if get_request() then
            os.getenv = getenv
            return getenv(name)
        end
        local name_bytes = base.get_size_ptr()
        if type(name) == "string"
            and C.ngx_http_lua_ffi_get_conf_env(name, entry, name_bytes) == FFI_OK
        then
            return (ffi_string(entry[0] + name_bytes[0] + 1))
        end
        return getenv(name)
    end
end

return _M
