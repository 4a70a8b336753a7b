-- The certificate that an upstream server is shown: for proxy_ssl_certificate_by_lua. See
-- proxysslcert.md.

local ffi = require "ffi"
local base = require "resty.core.base"

base.allows_subsystem("http")

local C = ffi.C
local errmsg = base.get_errmsg_ptr()
local get_request = base.get_request
local FFI_OK = base.FFI_OK
local error = error

ffi.cdef[[
int ngx_http_lua_ffi_proxy_ssl_clear_certs(ngx_http_request_t *r, char **err);
int ngx_http_lua_ffi_proxy_ssl_set_der_certificate(ngx_http_request_t *r, const char *data,
    size_t len, char **err);
int ngx_http_lua_ffi_proxy_ssl_set_der_private_key(ngx_http_request_t *r, const char *data,
    size_t len, char **err);
int ngx_http_lua_ffi_proxy_ssl_set_cert(void *r, void *cdata, char **err);
int ngx_http_lua_ffi_proxy_ssl_set_priv_key(void *r, void *cdata, char **err);
]]

local _M = { version = base.version }

local function current()
    return get_request() or error("no request found", 3)
end

local function done(code)
    if code == FFI_OK then
        return true
    end
    return nil, ffi.string(errmsg[0])
end

function _M.clear_certs()
    return done(C.ngx_http_lua_ffi_proxy_ssl_clear_certs(current(), errmsg))
end

function _M.set_der_cert(der)
    return done(C.ngx_http_lua_ffi_proxy_ssl_set_der_certificate(current(), der, #der, errmsg))
end

function _M.set_der_priv_key(der)
    return done(C.ngx_http_lua_ffi_proxy_ssl_set_der_private_key(current(), der, #der, errmsg))
end

function _M.set_cert(chain)
    return done(C.ngx_http_lua_ffi_proxy_ssl_set_cert(current(), chain, errmsg))
end

function _M.set_priv_key(key)
    return done(C.ngx_http_lua_ffi_proxy_ssl_set_priv_key(current(), key, errmsg))
end

return _M
