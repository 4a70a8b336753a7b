-- How database clients prove that they know a password: digests, HMAC, PBKDF2, random bytes and
-- RSA-OAEP, one call each, from the libcrypto that is in the process. For resty.mysql and
-- resty.postgres; it knows no protocol.

local ffi = require "ffi"
local bit = require "bit"

local C = ffi.C
local bxor = bit.bxor
local byte, char = string.byte, string.char
local concat = table.concat

-- The names are our own: another library may have declared the same functions in its own way.
ffi.cdef[[
unsigned char *resty_sha256(const char *d, size_t n, unsigned char *to) __asm__("SHA256");
unsigned char *resty_sha512(const char *d, size_t n, unsigned char *to) __asm__("SHA512");
const void *resty_evp_sha256(void) __asm__("EVP_sha256");
unsigned char *resty_hmac(const void *digest, const void *key, int key_len, const char *d, size_t n,
                          unsigned char *to, unsigned int *to_len) __asm__("HMAC");
int resty_pbkdf2(const char *password, int password_len, const char *salt, int salt_len,
                 int rounds, const void *digest, int len, unsigned char *to)
                 __asm__("PKCS5_PBKDF2_HMAC");
int resty_rand_bytes(unsigned char *to, int n) __asm__("RAND_bytes");
void *resty_bio_of(const void *data, int n) __asm__("BIO_new_mem_buf");
int resty_bio_free(void *bio) __asm__("BIO_free");
void *resty_read_public_key(void *bio, void *to, void *ask, void *with)
                            __asm__("PEM_read_bio_PUBKEY");
void resty_key_free(void *key) __asm__("EVP_PKEY_free");
void *resty_key_ctx_new(void *key, void *engine) __asm__("EVP_PKEY_CTX_new");
void resty_key_ctx_free(void *ctx) __asm__("EVP_PKEY_CTX_free");
int resty_encrypt_init(void *ctx) __asm__("EVP_PKEY_encrypt_init");
int resty_key_ctx_ctrl(void *ctx, int type, int op, int command, int n, void *p)
                       __asm__("EVP_PKEY_CTX_ctrl");
int resty_encrypt(void *ctx, unsigned char *to, size_t *to_len, const char *from, size_t len)
                  __asm__("EVP_PKEY_encrypt");
void resty_forget_errors(void) __asm__("ERR_clear_error");
]]

-- From openssl/rsa.h.
local EVP_PKEY_RSA, EVP_PKEY_CTRL_RSA_PADDING, RSA_PKCS1_OAEP_PADDING = 6, 0x1001, 4
local KEY_BYTES_MAX = 2048

local buffer = ffi.new("unsigned char[64]")
local long_buffer = ffi.new("unsigned char[?]", KEY_BYTES_MAX)
local size = ffi.new("size_t[1]")

local _M = {}

function _M.sha256(data)
    C.resty_sha256(data, #data, buffer)
    return (ffi.string(buffer, 32))
end

function _M.sha512(data)
    C.resty_sha512(data, #data, buffer)
    return (ffi.string(buffer, 64))
end

function _M.hmac_sha256(key, data)
    C.resty_hmac(C.resty_evp_sha256(), key, #key, data, #data, buffer, nil)
    return (ffi.string(buffer, 32))
end

-- nil when libcrypto refuses.
function _M.pbkdf2_sha256(password, salt, rounds)
    local ok = C.resty_pbkdf2(password, #password, salt, #salt, rounds, C.resty_evp_sha256(), 32,
                              buffer)
    return ok == 1 and ffi.string(buffer, 32) or nil
end

-- Up to 64 random bytes; nil when there is no randomness to be had.
function _M.random(n)
    return C.resty_rand_bytes(buffer, n) == 1 and ffi.string(buffer, n) or nil
end

-- `data`, each byte combined with the one of `key`, which is repeated.
function _M.xor(data, key)
    local bytes, n = {}, #key
    for i = 1, #data do
        bytes[i] = char(bxor(byte(data, i), byte(key, (i - 1) % n + 1)))
    end
    return concat(bytes)
end

local function encrypt(key, data)
    local ctx = C.resty_key_ctx_new(key, nil)
    if ctx == nil then
        return nil
    end
    ffi.gc(ctx, C.resty_key_ctx_free)
    size[0] = KEY_BYTES_MAX
    if C.resty_encrypt_init(ctx) ~= 1
       or C.resty_key_ctx_ctrl(ctx, EVP_PKEY_RSA, -1, EVP_PKEY_CTRL_RSA_PADDING,
                               RSA_PKCS1_OAEP_PADDING, nil) ~= 1
       or C.resty_encrypt(ctx, long_buffer, size, data, #data) ~= 1
    then
        return nil
    end
    return (ffi.string(long_buffer, size[0]))
end

-- RSA with OAEP padding (SHA-1), for the owner of a public key in PEM form.
function _M.rsa_oaep(pem, data)
    local bio = C.resty_bio_of(pem, #pem)
    if bio == nil then
        return nil, "out of memory"
    end
    local key = C.resty_read_public_key(bio, nil, nil, nil)
    C.resty_bio_free(bio)
    if key == nil then
        -- What is left in the queue would be taken for an error of the next TLS operation.
        C.resty_forget_errors()
        return nil, "bad public key"
    end
    local secret = encrypt(ffi.gc(key, C.resty_key_free), data)
    if not secret then
        C.resty_forget_errors()
        return nil, "cannot encrypt with the public key"
    end
    return secret
end

return _M
