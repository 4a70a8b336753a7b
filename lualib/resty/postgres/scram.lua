-- SCRAM-SHA-256 (RFC 5802, RFC 7677) as a client of PostgreSQL speaks it: what to send, and whether
-- the server knows the password too. No channel binding; it touches no socket.

local credentials = require "resty.credentials"

local hmac, sha256, xor = credentials.hmac_sha256, credentials.sha256, credentials.xor
local find, match, sub = string.find, string.match, string.sub
local encode, decode = ngx.encode_base64, ngx.decode_base64
local tonumber = tonumber

-- A server that asks for more rounds than this wants our CPU rather than a proof.
local ROUNDS_MAX = 1000000
-- Salted passwords are expensive: those of the last logins are kept, by user, password and salt.
local KEPT_MAX = 64

local _M = { MECHANISM = "SCRAM-SHA-256" }

local kept, kept_count = {}, 0

local function salted_password(password, salt, rounds)
    local key = rounds .. ":" .. #salt .. ":" .. salt .. password
    local salted = kept[key]
    if not salted then
        salted = credentials.pbkdf2_sha256(password, salt, rounds)
        if kept_count >= KEPT_MAX then
            kept, kept_count = {}, 0
        end
        kept[key], kept_count = salted, kept_count + 1
    end
    return salted
end

-- The state of one login and the first message; the user was named at the start of the session.
function _M.first(nonce)
    if not nonce then
        local random = credentials.random(18)
        if not random then
            return nil, "no random bytes"
        end
        nonce = encode(random)
    end
    local bare = "n=,r=" .. nonce
    return { nonce = nonce, bare = bare }, "n,," .. bare
end

-- The last message, with the proof; nil and an error when the server's makes no sense.
function _M.final(state, password, server_first)
    local nonce, salt, rounds = match(server_first, "^r=([^,]+),s=([^,]+),i=(%d+)")
    salt, rounds = salt and decode(salt), tonumber(rounds)
    if not salt or find(nonce, state.nonce, 1, true) ~= 1 or #nonce == #state.nonce
       or rounds < 1 or rounds > ROUNDS_MAX
    then
        return nil, "malformed SCRAM message"
    end
    local salted = salted_password(password, salt, rounds)
    if not salted then
        return nil, "cannot derive a key from the password"
    end
    local bare = "c=biws,r=" .. nonce
    local all = state.bare .. "," .. server_first .. "," .. bare
    local client_key = hmac(salted, "Client Key")
    local proof = xor(client_key, hmac(sha256(client_key), all))
    state.expected = hmac(hmac(salted, "Server Key"), all)
    return bare .. ",p=" .. encode(proof)
end

-- Whether the server has proved that it knows the password.
function _M.verify(state, server_final)
    return state.expected ~= nil and sub(server_final, 1, 2) == "v="
           and decode(match(server_final, "^v=([^,]*)")) == state.expected
end

return _M
