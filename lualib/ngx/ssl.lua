-- Certificates and private keys: from PEM and DER text to what handshakes take. See ssl.md.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_gc = ffi.gc
local ffi_string = ffi.string
local errmsg = base.get_errmsg_ptr()
local get_string_buf = base.get_string_buf

ffi.cdef[[
void *ngx_http_lua_ffi_parse_pem_cert(const unsigned char *pem, size_t pem_len, char **err);
void *ngx_http_lua_ffi_parse_der_cert(const char *data, size_t len, char **err);
void *ngx_http_lua_ffi_parse_pem_priv_key(const unsigned char *pem, size_t pem_len, char **err);
void *ngx_http_lua_ffi_parse_der_priv_key(const char *data, size_t len, char **err);
void ngx_http_lua_ffi_free_cert(void *cdata);
void ngx_http_lua_ffi_free_priv_key(void *cdata);
int ngx_http_lua_ffi_cert_pem_to_der(const unsigned char *pem, size_t pem_len,
    unsigned char *der, char **err);
int ngx_http_lua_ffi_priv_key_pem_to_der(const unsigned char *pem, size_t pem_len,
    const unsigned char *passphrase, unsigned char *der, char **err);
]]

local _M = { version = base.version }

-- parser(parse, free): a function that makes an object of text, which the collector frees.
local function parser(parse, free)
    return function(text)
        local object = parse(text, #text, errmsg)
        if object == nil then
            return nil, ffi_string(errmsg[0])
        end
        return ffi_gc(object, free)
    end
end

_M.parse_pem_cert = parser(C.ngx_http_lua_ffi_parse_pem_cert, C.ngx_http_lua_ffi_free_cert)
_M.parse_der_cert = parser(C.ngx_http_lua_ffi_parse_der_cert, C.ngx_http_lua_ffi_free_cert)
_M.parse_pem_priv_key = parser(C.ngx_http_lua_ffi_parse_pem_priv_key,
                               C.ngx_http_lua_ffi_free_priv_key)
_M.parse_der_priv_key = parser(C.ngx_http_lua_ffi_parse_der_priv_key,
                               C.ngx_http_lua_ffi_free_priv_key)

function _M.cert_pem_to_der(pem)
    local der = get_string_buf(#pem)
    local bytes = C.ngx_http_lua_ffi_cert_pem_to_der(pem, #pem, der, errmsg)
    if bytes > 0 then
        return ffi_string(der, bytes)
    end
    return nil, ffi_string(errmsg[0])
end

function _M.priv_key_pem_to_der(pem, passphrase)
    local der = get_string_buf(#pem)
    local bytes = C.ngx_http_lua_ffi_priv_key_pem_to_der(pem, #pem, passphrase, der, errmsg)
    if bytes > 0 then
        return ffi_string(der, bytes)
    end
    return nil, ffi_string(errmsg[0])
end

return _M
