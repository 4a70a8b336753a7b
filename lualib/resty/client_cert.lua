-- Who a TLS client says it is: resty.http and resty.websocket.client keep connections made with
-- different certificates in different pools. Certificates are what ngx.ssl.parse_pem_cert gives.

local ffi = require "ffi"

local C = ffi.C
local format = string.format
local concat = table.concat
local type = type

ffi.cdef[[
int OPENSSL_sk_num(const void *stack);
void *OPENSSL_sk_value(const void *stack, int index);
const void *EVP_sha256(void);
int X509_digest(const void *cert, const void *type, unsigned char *to, unsigned int *bytes);
int X509_check_private_key(const void *cert, const void *key);
void ERR_clear_error(void);
]]

local digest = ffi.new("unsigned char[64]")
local digest_bytes = ffi.new("unsigned int[1]")

local _M = {}

-- The hexadecimal SHA-256 of a chain's first certificate, once it is sure that the key is its own;
-- or nil and an error. `prefix` begins the names of the options in the texts.
function _M.identity(chain, key, prefix)
    if type(chain) ~= "cdata" then
        return nil, "bad " .. prefix .. "cert: cdata expected, got " .. type(chain)
    end
    if type(key) ~= "cdata" then
        return nil, "bad " .. prefix .. "priv_key: cdata expected, got " .. type(key)
    end
    if C.OPENSSL_sk_num(chain) < 1 then
        return nil, "no cert in " .. prefix .. "cert"
    end
    local cert = C.OPENSSL_sk_value(chain, 0)
    if C.X509_check_private_key(cert, key) ~= 1 then
        C.ERR_clear_error()
        return nil, "the private key doesn't match the cert: key values mismatch"
    end
    if C.X509_digest(cert, C.EVP_sha256(), digest, digest_bytes) ~= 1 then
        C.ERR_clear_error()
        return nil, "failed to calculate the digest of the cert"
    end
    local hex = {}
    for i = 0, digest_bytes[0] - 1 do
        hex[i + 1] = format("%02x", digest[i])
    end
    return concat(hex)
end

return _M
