-- WebSocket frames (RFC 6455, section 5) over a cosocket: what resty.websocket.server and
-- resty.websocket.client share. Knows nothing of handshakes.

local bit = require "bit"
local ffi = require "ffi"

local C = ffi.C
local cast = ffi.cast
local ffi_copy = ffi.copy
local ffi_new = ffi.new
local ffi_string = ffi.string
local band, bor, bxor = bit.band, bit.bor, bit.bxor
local lshift, rshift = bit.lshift, bit.rshift
local byte, char, sub = string.byte, string.char, string.sub
local floor = math.floor
local tostring = tostring
local type = type
local log = ngx.log
local DEBUG = ngx.DEBUG
local debugging = ngx.config.debug

local ok, new_tab = pcall(require, "table.new")
if not ok then
    new_tab = function() return {} end
end

ffi.cdef[[
int resty_mask_bytes(unsigned char *to, int bytes) __asm__("RAND_bytes");
]]

local _M = { _VERSION = "0.13", new_tab = new_tab }

local types = {
    [0x0] = "continuation",
    [0x1] = "text",
    [0x2] = "binary",
    [0x8] = "close",
    [0x9] = "ping",
    [0xa] = "pong",
}

local control_payload_max = 125
local payload_max = 0x7fffffff

-- Bytes are masked in here; longer payloads get a buffer of their own.
local scratch_bytes = 16384
local scratch = ffi_new("uint32_t[?]", scratch_bytes / 4)
local word_t = ffi.typeof("uint32_t *")
local byte_t = ffi.typeof("uint8_t *")
local key_buffer = ffi_new("uint8_t[4]")

-- The bytes of `data` from `offset` on, each combined with the mask's byte of its turn.
local function masked(data, offset, length, key)
    local words = scratch
    if length > scratch_bytes then
        words = ffi_new("uint32_t[?]", floor(length / 4) + 1)
    end
    local bytes = cast(byte_t, words)
    ffi_copy(bytes, cast("const uint8_t *", data) + offset, length)
    ffi_copy(key_buffer, key, 4)

    local mask = cast(word_t, key_buffer)[0]
    local whole = rshift(length, 2)
    for i = 0, whole - 1 do
        words[i] = bxor(words[i], mask)
    end
    for i = lshift(whole, 2), length - 1 do
        bytes[i] = bxor(bytes[i], key_buffer[band(i, 3)])
    end
    return (ffi_string(bytes, length))
end

-- Exactly n bytes. What came before a timeout is kept in `state` for the next call.
local function receive(sock, n, state)
    local had = state and state.partial
    local data, err, partial = sock:receive(had and n - #had or n)
    if data then
        if had then
            state.partial = nil
            return had .. data
        end
        return data
    end
    if state and err == "timeout" and partial and partial ~= "" then
        state.partial = had and had .. partial or partial
    end
    return nil, err
end

local function check_head(opcode, fin, rsv, has_mask, length7, must_mask)
    if rsv ~= 0 then
        return "bad RSV1, RSV2, or RSV3 bits"
    end
    if opcode >= 0x3 and opcode <= 0x7 then
        return "reserved non-control frames"
    end
    if opcode >= 0xb then
        return "reserved control frames"
    end
    if must_mask and not has_mask then
        return "frame unmasked"
    end
    if opcode >= 0x8 then
        if length7 > control_payload_max then
            return "too long payload for control frame"
        end
        if not fin then
            return "fragmented control frame"
        end
    end
end

local function receive_length16(sock, state)
    local data, err = receive(sock, 2, state)
    if not data then
        return nil, "failed to receive the 2 byte payload length: " .. (err or "unknown")
    end
    local high, low = byte(data, 1, 2)
    return bor(lshift(high, 8), low)
end

local function receive_length64(sock, state)
    local data, err = receive(sock, 8, state)
    if not data then
        return nil, "failed to receive the 8 byte payload length: " .. (err or "unknown")
    end
    local a, b, c, d, e, f, g, h = byte(data, 1, 8)
    if a ~= 0 or b ~= 0 or c ~= 0 or d ~= 0 or e >= 0x80 then
        return nil, "payload len too large"
    end
    return bor(lshift(e, 24), lshift(f, 16), lshift(g, 8), h)
end

-- The head of a frame: {opcode, fin, masked?, payload length}, kept in `state` until the payload is
-- there; or nil and an error.
local function receive_head(sock, length_max, must_mask, state)
    local first, second = state.first, state.second
    if not first then
        local data, err = receive(sock, 2, state)
        if not data then
            return nil, "failed to receive the first 2 bytes: " .. (err or "unknown")
        end
        first, second = byte(data, 1, 2)
        state.first, state.second = first, second
    end

    local has_mask = band(second, 0x80) ~= 0
    local length = band(second, 0x7f)
    if debugging then
        log(DEBUG, "recv_frame: mask bit: ", has_mask and 1 or 0)
    end
    local opcode, rsv = band(first, 0x0f), band(first, 0x70)
    local err
    if opcode > 0x2 or rsv ~= 0 or (must_mask and not has_mask) then
        err = check_head(opcode, band(first, 0x80) ~= 0, rsv, has_mask, length, must_mask)
        if err then
            return nil, err
        end
    end

    if length == 126 then
        length, err = receive_length16(sock, state)
    elseif length == 127 then
        length, err = receive_length64(sock, state)
    end
    if not length then
        return nil, err
    end
    if length > length_max then
        return nil, "exceeding max payload len"
    end
    state.length = length
    return true
end

local function close_payload(data)
    if #data == 0 then
        return "", "close", nil
    end
    if #data < 2 then
        return nil, nil, "close frame with a body must carry a 2-byte status code"
    end
    local high, low = byte(data, 1, 2)
    return sub(data, 3), "close", bor(lshift(high, 8), low)
end

-- Receives one frame: payload, type name and "again" when more fragments follow; of a close frame
-- the message, "close" and the status code, if it had one; or nil, nil, error.
-- `state` is a table the caller keeps with the connection: with it, a call after a timeout goes on
-- where the frame broke off instead of losing what had come.
function _M.recv_frame(sock, length_max, must_mask, state)
    state = state or {}
    if not state.length then
        local ok, err = receive_head(sock, length_max, must_mask, state)
        if not ok then
            return nil, nil, err
        end
    end

    local first, length = state.first, state.length
    local has_mask = band(state.second, 0x80) ~= 0
    local data = ""
    if has_mask or length > 0 then
        local err
        data, err = receive(sock, has_mask and length + 4 or length, state)
        if not data then
            return nil, nil, "failed to read masking-len and payload: " .. (err or "unknown")
        end
    end
    state.first, state.second, state.length = nil, nil, nil

    if has_mask then
        data = length == 0 and "" or masked(data, 4, length, data)
    end
    local opcode = band(first, 0x0f)
    if opcode == 0x8 then
        return close_payload(data)
    end
    return data, types[opcode], band(first, 0x80) == 0 and "again" or nil
end

-- A new masking key. It must be unpredictable for whoever chose the payload (RFC 6455, 10.3).
local function mask_key()
    if C.resty_mask_bytes(key_buffer, 4) ~= 1 then
        return nil
    end
    return (ffi_string(key_buffer, 4))
end

local function length_bytes(length)
    if length <= 125 then
        return length, ""
    end
    if length <= 65535 then
        return 126, char(rshift(length, 8), band(length, 0xff))
    end
    return 127, char(0, 0, 0, 0, band(rshift(length, 24), 0xff), band(rshift(length, 16), 0xff),
                     band(rshift(length, 8), 0xff), band(length, 0xff))
end

-- The bytes of one frame, or nil and an error.
function _M.build_frame(fin, opcode, payload_len, payload, masking)
    if payload_len > payload_max then
        return nil, "payload too big"
    end
    local first = fin and bor(0x80, opcode) or opcode
    local second, extended = length_bytes(payload_len)
    if not masking then
        return char(first, second) .. extended .. payload
    end

    local key = mask_key()
    if not key then
        return nil, "no random bytes for the masking key"
    end
    if payload_len > 0 then
        payload = masked(payload, 0, payload_len, key)
    end
    return char(first, bor(second, 0x80)) .. extended .. key .. payload
end

-- Sends one frame: the number of bytes sent, or nil and an error.
function _M.send_frame(sock, fin, opcode, payload, length_max, masking)
    if not payload then
        payload = ""
    elseif type(payload) ~= "string" then
        payload = tostring(payload)
    end
    local length = #payload
    if length > length_max then
        return nil, "payload too big"
    end
    if band(opcode, 0x8) ~= 0 then
        if length > control_payload_max then
            return nil, "too much payload for control frame"
        end
        if not fin then
            return nil, "fragmented control frame"
        end
    end

    local frame, err = _M.build_frame(fin, opcode, length, payload, masking)
    if not frame then
        return nil, "failed to build frame: " .. err
    end
    local bytes
    bytes, err = sock:send(frame)
    if not bytes then
        return nil, "failed to send frame: " .. err
    end
    return bytes
end

return _M
