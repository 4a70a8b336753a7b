-- The certificate of an upstream server, and the verdict on it: for proxy_ssl_verify_by_lua. See
-- proxysslverify.md.

local ffi = require "ffi"
local base = require "resty.core.base"

base.allows_subsystem("http")

local C = ffi.C
local errmsg = base.get_errmsg_ptr()
local get_request = base.get_request
local FFI_OK = base.FFI_OK
local FFI_ERROR = base.FFI_ERROR
local get_phase = ngx.get_phase
local error = error

ffi.cdef[[
int ngx_http_lua_ffi_proxy_ssl_set_verify_result(ngx_http_request_t *r, int verify_result,
    char **err);
int ngx_http_lua_ffi_proxy_ssl_get_verify_result(ngx_http_request_t *r, char **err);
void *ngx_http_lua_ffi_proxy_ssl_get_verify_cert(ngx_http_request_t *r, char **err);
void ngx_http_lua_ffi_proxy_ssl_free_verify_cert(void *cdata);
]]

local _M = { version = base.version }

local function current()
    local request = get_request() or error("no request found", 3)
    if get_phase() ~= "proxy_ssl_verify" then
        error("API disabled in the current context", 3)
    end
    return request
end

local function failure()
    return nil, ffi.string(errmsg[0])
end

function _M.set_verify_result(result)
    local code = C.ngx_http_lua_ffi_proxy_ssl_set_verify_result(current(), result, errmsg)
    if code == FFI_OK then
        return true
    end
    return failure()
end

function _M.get_verify_result()
    local result = C.ngx_http_lua_ffi_proxy_ssl_get_verify_result(current(), errmsg)
    if result == FFI_ERROR then
        return failure()
    end
    return result
end

function _M.get_verify_cert()
    local certificate = C.ngx_http_lua_ffi_proxy_ssl_get_verify_cert(current(), errmsg)
    if certificate == nil then
        return failure()
    end
    return ffi.gc(certificate, C.ngx_http_lua_ffi_proxy_ssl_free_verify_cert)
end

return _M
