-- The TLS connection to the upstream server of this request. See proxyssl.md.

local ffi = require "ffi"
local base = require "resty.core.base"

base.allows_subsystem("http")

local C = ffi.C
local errmsg = base.get_errmsg_ptr()
local get_request = base.get_request
local error = error
local tonumber = tonumber

ffi.cdef[[
int ngx_http_lua_ffi_proxy_ssl_get_tls1_version(ngx_http_request_t *r, char **err);
]]

local _M = {
    version = base.version,
    SSL3_VERSION = 0x0300,
    TLS1_VERSION = 0x0301,
    TLS1_1_VERSION = 0x0302,
    TLS1_2_VERSION = 0x0303,
    TLS1_3_VERSION = 0x0304,
}

function _M.get_tls1_version()
    local request = get_request() or error("no request found")
    local version = tonumber(C.ngx_http_lua_ffi_proxy_ssl_get_tls1_version(request, errmsg))
    if version >= 0 then
        return version
    end
    return nil, ffi.string(errmsg[0])
end

local names = {
    [_M.SSL3_VERSION] = "SSLv3",
    [_M.TLS1_VERSION] = "TLSv1",
    [_M.TLS1_1_VERSION] = "TLSv1.1",
    [_M.TLS1_2_VERSION] = "TLSv1.2",
    [_M.TLS1_3_VERSION] = "TLSv1.3",
}

function _M.get_tls1_version_str()
    local version, err = _M.get_tls1_version()
    if not version then
        return nil, err
    end
    local name = names[version]
    if not name then
        return nil, "unknown version"
    end
    return name
end

return _M
