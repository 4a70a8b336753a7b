-- AES encryption by OpenSSL.

local ffi = require "ffi"
local base = require "resty.core.base"

local C = ffi.C
local ffi_copy = ffi.copy
local ffi_gc = ffi.gc
local ffi_new = ffi.new
local ffi_string = ffi.string
local setmetatable = setmetatable
local type = type
local error = error

ffi.cdef[[
typedef struct engine_st ENGINE;
typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_cipher_ctx_st EVP_CIPHER_CTX;
typedef struct env_md_ctx_st EVP_MD_CTX;
typedef struct env_md_st EVP_MD;

const EVP_MD *EVP_md5(void);
const EVP_MD *EVP_sha1(void);
const EVP_MD *EVP_sha224(void);
const EVP_MD *EVP_sha256(void);
const EVP_MD *EVP_sha384(void);
const EVP_MD *EVP_sha512(void);

const EVP_CIPHER *EVP_get_cipherbyname(const char *name);
EVP_CIPHER_CTX *EVP_CIPHER_CTX_new();
void EVP_CIPHER_CTX_free(EVP_CIPHER_CTX *a);
int EVP_CIPHER_CTX_set_padding(EVP_CIPHER_CTX *ctx, int padding);
int EVP_CIPHER_CTX_ctrl(EVP_CIPHER_CTX *ctx, int type, int arg, void *ptr);
int EVP_EncryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *impl,
    unsigned char *key, const unsigned char *iv);
int EVP_EncryptUpdate(EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl,
    const unsigned char *in, int inl);
int EVP_EncryptFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl);
int EVP_DecryptInit_ex(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, ENGINE *impl,
    unsigned char *key, const unsigned char *iv);
int EVP_DecryptUpdate(EVP_CIPHER_CTX *ctx, unsigned char *out, int *outl,
    const unsigned char *in, int inl);
int EVP_DecryptFinal_ex(EVP_CIPHER_CTX *ctx, unsigned char *outm, int *outl);
int EVP_BytesToKey(const EVP_CIPHER *type, const EVP_MD *md, const unsigned char *salt,
    const unsigned char *data, int datal, int count, unsigned char *key, unsigned char *iv);
]]

local _M = { _VERSION = "0.17" }
local mt = { __index = _M }

local set_iv_bytes, get_tag, set_tag = 0x09, 0x10, 0x11     -- EVP_CTRL_AEAD_*
local tag_bytes = 16
local block_bytes_max = 32
local salt_bytes = 8
local out_bytes = ffi_new("int[1]")
local more_bytes = ffi_new("int[1]")
local tag_buffer = ffi_new("unsigned char[?]", tag_bytes)

_M.hash = {
    md5 = C.EVP_md5(),
    sha1 = C.EVP_sha1(),
    sha224 = C.EVP_sha224(),
    sha256 = C.EVP_sha256(),
    sha384 = C.EVP_sha384(),
    sha512 = C.EVP_sha512(),
}

local modes = { ecb = true, cbc = true, cfb1 = true, cfb8 = true, cfb128 = "cfb", ofb = true,
                ctr = true, gcm = true }

-- The cipher of this key size in bits and mode; nil when OpenSSL has none.
function _M.cipher(size, mode)
    size, mode = size or 128, mode or "cbc"
    local known = modes[mode]
    if not known then
        return nil
    end
    local name = "aes-" .. size .. "-" .. (known == true and mode or known)
    local method = C.EVP_get_cipherbyname(name)
    if method == nil then
        return nil
    end
    return { size = size, cipher = mode, method = method }
end

-- A key and start vector given as they are. Returns the vector's length, or nil and the reason.
local function given_key(key, hash, bytes, to_key, to_iv)
    local iv = hash.iv
    if not iv then
        return nil, "iv is needed"
    end
    if #iv > bytes then
        return nil, "bad iv length"
    end
    if hash.method then
        key = hash.method(key)
    end
    if #key ~= bytes then
        return nil, "bad key length"
    end
    ffi_copy(to_key, key, bytes)
    ffi_copy(to_iv, iv, #iv)
    return #iv
end

local function new_context(init, method, aead, iv_bytes, padding)
    local context = C.EVP_CIPHER_CTX_new()
    if context == nil then
        return nil, "no memory"
    end
    ffi_gc(context, C.EVP_CIPHER_CTX_free)
    if init(context, method, nil, nil, nil) == 0 then
        return nil, "failed to init ctx"
    end
    if aead and C.EVP_CIPHER_CTX_ctrl(context, set_iv_bytes, iv_bytes, nil) == 0 then
        return nil, "failed to set IV length"
    end
    if C.EVP_CIPHER_CTX_set_padding(context, padding) == 0 then
        return nil, "failed to set padding"
    end
    return context
end

function _M.new(_, key, salt, cipher, hash, rounds, iv_bytes, enable_padding)
    cipher = cipher or _M.cipher()
    hash = hash or _M.hash.md5
    local bytes = cipher.size / 8
    local key_bytes = ffi_new("unsigned char[?]", bytes)
    local iv = ffi_new("unsigned char[?]", bytes)
    local err
    iv_bytes = iv_bytes or bytes
    if type(hash) == "table" then
        iv_bytes, err = given_key(key, hash, bytes, key_bytes, iv)
        if not iv_bytes then
            return nil, err
        end
    elseif salt and #salt ~= salt_bytes then
        return nil, "salt must be 8 characters or nil"
    elseif C.EVP_BytesToKey(cipher.method, hash, salt, key, #key, rounds or 1, key_bytes, iv)
        ~= bytes
    then
        return nil, "failed to generate key and iv"
    end
    local padding = enable_padding == false and 0 or 1
    local aead = cipher.cipher == "gcm"
    local encrypting, decrypting
    encrypting, err = new_context(C.EVP_EncryptInit_ex, cipher.method, aead, iv_bytes, padding)
    if not encrypting then
        return nil, err
    end
    decrypting, err = new_context(C.EVP_DecryptInit_ex, cipher.method, aead, iv_bytes, padding)
    if not decrypting then
        return nil, err
    end
    return setmetatable({
        _encrypt_ctx = encrypting,
        _decrypt_ctx = decrypting,
        _cipher = cipher.cipher,
        _key = key_bytes,
        _iv = iv,
    }, mt)
end

local function check_self(self)
    if type(self) ~= "table" then
        error("bad argument #1 self: table expected, got " .. type(self), 3)
    end
end

-- The text encrypted; for gcm a table of it and its tag.
function _M.encrypt(self, s, aad)
    check_self(self)
    local context = self._encrypt_ctx
    local buffer = base.get_string_buf(#s + 2 * block_bytes_max)
    local gcm = self._cipher == "gcm"
    if C.EVP_EncryptInit_ex(context, nil, nil, self._key, self._iv) == 0 then
        return nil, "EVP_EncryptInit_ex failed"
    end
    if gcm and aad and C.EVP_EncryptUpdate(context, nil, more_bytes, aad, #aad) == 0 then
        return nil, "C.EVP_EncryptUpdate failed"
    end
    if C.EVP_EncryptUpdate(context, buffer, out_bytes, s, #s) == 0 then
        return nil, "EVP_EncryptUpdate failed"
    end
    if C.EVP_EncryptFinal_ex(context, buffer + out_bytes[0], more_bytes) == 0 then
        return nil, "EVP_EncryptFinal_ex failed"
    end
    local text = ffi_string(buffer, out_bytes[0] + more_bytes[0])
    if gcm then
        C.EVP_CIPHER_CTX_ctrl(context, get_tag, tag_bytes, tag_buffer)
        return { text, ffi_string(tag_buffer, tag_bytes) }
    end
    return text
end

function _M.decrypt(self, s, tag, aad)
    check_self(self)
    local context = self._decrypt_ctx
    local buffer = base.get_string_buf(#s + 2 * block_bytes_max)
    local gcm = self._cipher == "gcm"
    if C.EVP_DecryptInit_ex(context, nil, nil, self._key, self._iv) == 0 then
        return nil, "EVP_DecryptInit_ex failed"
    end
    if gcm and aad and C.EVP_DecryptUpdate(context, nil, more_bytes, aad, #aad) == 0 then
        return nil, "C.EVP_DecryptUpdate failed"
    end
    if C.EVP_DecryptUpdate(context, buffer, out_bytes, s, #s) == 0 then
        return nil, "EVP_DecryptUpdate failed"
    end
    if gcm and tag then
        ffi_copy(tag_buffer, tag, tag_bytes)
        C.EVP_CIPHER_CTX_ctrl(context, set_tag, tag_bytes, tag_buffer)
    end
    if C.EVP_DecryptFinal_ex(context, buffer + out_bytes[0], more_bytes) == 0 then
        return nil, "EVP_DecryptFinal_ex failed"
    end
    return (ffi_string(buffer, out_bytes[0] + more_bytes[0]))
end

return _M
