-- What resty.mysql answers to a server that asks who it is: one function per authentication plugin.
-- Formulas are those of the MySQL and MariaDB protocol documentation. It touches no socket.

local bit = require "bit"
local credentials = require "resty.credentials"

local band, bxor, lshift = bit.band, bit.bxor, bit.lshift
local byte, char, sub = string.byte, string.char, string.sub
local floor = math.floor
local concat = table.concat
local sha1 = ngx.sha1_bin
local sha256, xor = credentials.sha256, credentials.xor

local _M = {}

-- SHA1(password) XOR SHA1(nonce + SHA1(SHA1(password)))
local function native(password, nonce)
    if password == "" then
        return ""
    end
    local once = sha1(password)
    return xor(sha1(sub(nonce, 1, 20) .. sha1(once)), once)
end

-- SHA256(password) XOR SHA256(SHA256(SHA256(password)) + nonce)
local function caching_sha2(password, nonce)
    if password == "" then
        return ""
    end
    local once = sha256(password)
    return xor(once, sha256(sha256(once) .. sub(nonce, 1, 20)))
end

-- The hash of passwords before MySQL 4.1: two numbers of 31 bits.
local function old_hash(text)
    local first, second, add = 1345345333, 0x12345671, 7
    for i = 1, #text do
        local c = byte(text, i)
        if c ~= 32 and c ~= 9 then
            first = bxor(first, (band(first, 63) + add) * c + lshift(first, 8))
            second = second + bxor(lshift(second, 8), first)
            add = add + c
        end
    end
    return band(first, 0x7fffffff), band(second, 0x7fffffff)
end

-- 8 characters of a generator that the password and the nonce have seeded.
local function old(password, nonce)
    if password == "" then
        return ""
    end
    local limit = 0x3fffffff
    local password_a, password_b = old_hash(password)
    local nonce_a, nonce_b = old_hash(sub(nonce, 1, 8))
    local a, b = bxor(password_a, nonce_a) % limit, bxor(password_b, nonce_b) % limit
    local function next_number()
        a = (a * 3 + b) % limit
        b = (a + b + 33) % limit
        return floor(a / limit * 31)
    end
    local numbers = {}
    for i = 1, 8 do
        numbers[i] = next_number() + 64
    end
    local last = next_number()
    for i = 1, 8 do
        numbers[i] = char(bxor(numbers[i], last))
    end
    return concat(numbers) .. "\0"
end

local function ed25519(password, nonce)
    return require("resty.mysql.auth_ed25519").sign(password, sub(nonce, 1, 32))
end

-- The password, for the eyes of whoever holds the private key.
function _M.encrypt_password(password, nonce, public_key)
    nonce = sub(nonce, 1, 20)
    if #nonce ~= 20 then
        return nil, "malformed packet"
    end
    return credentials.rsa_oaep(public_key, xor(password .. "\0", nonce))
end

-- The first answer to `plugin`. `private` says that nobody listens (TLS or a Unix socket). Gives
-- nil and an error when there is none.
function _M.respond(plugin, password, nonce, private)
    if plugin == "mysql_native_password" then
        return native(password, nonce)
    elseif plugin == "caching_sha2_password" then
        return caching_sha2(password, nonce)
    elseif plugin == "mysql_old_password" then
        return old(password, nonce)
    elseif plugin == "mysql_clear_password" then
        if not private then
            return nil, "mysql_clear_password needs ssl or a Unix socket"
        end
        return password .. "\0"
    elseif plugin == "client_ed25519" then
        return ed25519(password, nonce)
    elseif plugin == "sha256_password" then
        -- Byte 1 asks for the server's public key.
        return (private or password == "") and password .. "\0" or "\1"
    end
    return nil, "unknown plugin: " .. plugin
end

return _M
