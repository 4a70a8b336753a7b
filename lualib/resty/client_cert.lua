-- Who a TLS client says it is: resty.http and resty.websocket.client keep connections made with
-- different certificates in different pools. Certificates are what ngx.ssl.parse_pem_cert gives.

local ffi = require "ffi"

local C = ffi.C
local format = string.format
local concat = table.concat
local type = type

-- The names are our own: another library may have declared the same functions in its own way.
ffi.cdef[[
int resty_chain_length(const void *chain) __asm__("OPENSSL_sk_num");
void *resty_chain_item(const void *chain, int index) __asm__("OPENSSL_sk_value");
const void *resty_sha256_type(void) __asm__("EVP_sha256");
int resty_cert_digest(const void *cert, const void *type, unsigned char *to, unsigned int *bytes)
                      __asm__("X509_digest");
int resty_cert_matches(const void *cert, const void *key) __asm__("X509_check_private_key");
void resty_forget_cert_errors(void) __asm__("ERR_clear_error");
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
    if C.resty_chain_length(chain) < 1 then
        return nil, "no cert in " .. prefix .. "cert"
    end
    local cert = C.resty_chain_item(chain, 0)
    if C.resty_cert_matches(cert, key) ~= 1 then
        C.resty_forget_cert_errors()
        return nil, "the private key doesn't match the cert: key values mismatch"
    end
    if C.resty_cert_digest(cert, C.resty_sha256_type(), digest, digest_bytes) ~= 1 then
        C.resty_forget_cert_errors()
        return nil, "failed to calculate the digest of the cert"
    end
    local hex = {}
    for i = 0, digest_bytes[0] - 1 do
        hex[i + 1] = format("%02x", digest[i])
    end
    return concat(hex)
end

return _M
