-- MariaDB's client_ed25519: a signature over the server's nonce, with SHA512(password) itself as
-- the expanded secret key. RFC 8032 hashes a seed there, and libcrypto's Ed25519 does no less: so
-- the curve is done here, on libcrypto's big numbers, some 400 point additions for a signature.

local ffi = require "ffi"
local bit = require "bit"
local sha512 = require("resty.credentials").sha512

local C = ffi.C
local band, bor = bit.band, bit.bor
local byte, char, sub = string.byte, string.char, string.sub

ffi.cdef[[
void *resty_bn_new(void) __asm__("BN_new");
void resty_bn_free(void *n) __asm__("BN_clear_free");
void *resty_bn_ctx_new(void) __asm__("BN_CTX_new");
int resty_bn_hex(void **n, const char *text) __asm__("BN_hex2bn");
void *resty_bn_from_le(const char *from, int len, void *n) __asm__("BN_lebin2bn");
int resty_bn_to_le(const void *n, unsigned char *to, int len) __asm__("BN_bn2lebinpad");
void *resty_bn_copy(void *to, const void *from) __asm__("BN_copy");
int resty_bn_bit(const void *n, int bit) __asm__("BN_is_bit_set");
int resty_bn_mul(void *r, const void *a, const void *b, const void *m, void *ctx)
                 __asm__("BN_mod_mul");
int resty_bn_add(void *r, const void *a, const void *b, const void *m, void *ctx)
                 __asm__("BN_mod_add");
int resty_bn_sub(void *r, const void *a, const void *b, const void *m, void *ctx)
                 __asm__("BN_mod_sub");
int resty_bn_mod(void *q, void *r, const void *a, const void *m, void *ctx) __asm__("BN_div");
void *resty_bn_inverse(void *r, const void *a, const void *m, void *ctx)
                       __asm__("BN_mod_inverse");
]]

local _M = { _VERSION = "0.02" }

local ctx
-- RFC 8032 section 5.1: the field's prime, the base point's order, the curve's d.
local prime, order, curve_d, base

local function new_number(hex)
    local n = ffi.gc(C.resty_bn_new(), C.resty_bn_free)
    if hex then
        local to = ffi.new("void *[1]", n)
        C.resty_bn_hex(to, hex)
    end
    return n
end

local function from_bytes(bytes)
    local n = new_number()
    C.resty_bn_from_le(bytes, #bytes, n)
    return n
end

local buffer = ffi.new("unsigned char[32]")

local function to_bytes(n)
    C.resty_bn_to_le(n, buffer, 32)
    return (ffi.string(buffer, 32))
end

local function mul(a, b)
    local r = new_number()
    C.resty_bn_mul(r, a, b, prime, ctx)
    return r
end

local function new_point(x, y)
    return { x = x, y = y, z = new_number("1"), t = mul(x, y) }
end

local function prepare()
    if base then
        return
    end
    ctx = C.resty_bn_ctx_new()
    prime = new_number("7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed")
    order = new_number("1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed")
    curve_d = new_number("52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3")
    base = new_point(
        new_number("216936d3cd6e53fec0a4e231fdd6dc5c692cc7609525a7b2c9562d608f25d51a"),
        new_number("6666666666666666666666666666666666666666666666666666666666666658"))
end

-- Numbers that an addition needs on the way, made once per multiplication.
local function new_scratch()
    local s = {}
    for _, name in ipairs({ "a", "b", "c", "d", "e", "f", "g", "h", "u", "v" }) do
        s[name] = new_number()
    end
    return s
end

-- p becomes p + q, in extended coordinates (RFC 8032 section 5.1.4). q may be p: the formula is
-- complete.
local function add(p, q, s)
    C.resty_bn_sub(s.u, p.y, p.x, prime, ctx)
    C.resty_bn_sub(s.v, q.y, q.x, prime, ctx)
    C.resty_bn_mul(s.a, s.u, s.v, prime, ctx)
    C.resty_bn_add(s.u, p.y, p.x, prime, ctx)
    C.resty_bn_add(s.v, q.y, q.x, prime, ctx)
    C.resty_bn_mul(s.b, s.u, s.v, prime, ctx)
    C.resty_bn_mul(s.c, p.t, q.t, prime, ctx)
    C.resty_bn_mul(s.c, s.c, curve_d, prime, ctx)
    C.resty_bn_add(s.c, s.c, s.c, prime, ctx)
    C.resty_bn_mul(s.d, p.z, q.z, prime, ctx)
    C.resty_bn_add(s.d, s.d, s.d, prime, ctx)
    C.resty_bn_sub(s.e, s.b, s.a, prime, ctx)
    C.resty_bn_sub(s.f, s.d, s.c, prime, ctx)
    C.resty_bn_add(s.g, s.d, s.c, prime, ctx)
    C.resty_bn_add(s.h, s.b, s.a, prime, ctx)
    C.resty_bn_mul(p.x, s.e, s.f, prime, ctx)
    C.resty_bn_mul(p.y, s.g, s.h, prime, ctx)
    C.resty_bn_mul(p.t, s.e, s.h, prime, ctx)
    C.resty_bn_mul(p.z, s.f, s.g, prime, ctx)
end

local function copy(p)
    local q = {}
    for name, n in pairs(p) do
        q[name] = new_number()
        C.resty_bn_copy(q[name], n)
    end
    return q
end

-- The base point, `scalar` times, encoded (RFC 8032 section 5.1.2).
local function times_base(scalar)
    local sum = new_point(new_number("0"), new_number("1"))
    local doubled, scratch = copy(base), new_scratch()
    for i = 0, 255 do
        if C.resty_bn_bit(scalar, i) == 1 then
            add(sum, doubled, scratch)
        end
        add(doubled, doubled, scratch)
    end
    local inverse = new_number()
    C.resty_bn_inverse(inverse, sum.z, prime, ctx)
    local x, y = mul(sum.x, inverse), to_bytes(mul(sum.y, inverse))
    local sign = C.resty_bn_bit(x, 0) == 1 and 0x80 or 0
    return sub(y, 1, 31) .. char(bor(byte(y, 32), sign))
end

local function reduced(bytes)
    local n = from_bytes(bytes)
    C.resty_bn_mod(nil, n, n, order, ctx)
    return n
end

-- 64 bytes: RFC 8032 section 5.1.6 from its second step on.
function _M.sign(password, message)
    prepare()
    local expanded = sha512(password)
    local low = sub(expanded, 1, 32)
    low = char(band(byte(low, 1), 0xf8)) .. sub(low, 2, 31)
          .. char(bor(band(byte(low, 32), 0x7f), 0x40))
    local secret = from_bytes(low)
    local public = times_base(secret)
    local once = reduced(sha512(sub(expanded, 33) .. message))
    local commitment = times_base(once)
    local challenge = reduced(sha512(commitment .. public .. message))
    C.resty_bn_mul(challenge, challenge, secret, order, ctx)
    C.resty_bn_add(challenge, challenge, once, order, ctx)
    return commitment .. to_bytes(challenge)
end

return _M
