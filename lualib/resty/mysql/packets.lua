-- MySQL's packets: taking them from a reader and sending them, the numbers and strings within, and
-- the two that end most things, OK and error. For resty.mysql; `self` is its connection object, of
-- which only `sock`, `_in`, `packet_no` and `_max_packet_size` are touched.

local bit = require "bit"
local new_tab = require "table.new"
local reader_of = require "resty.reader"

local band, rshift = bit.band, bit.rshift
local byte, char, sub = string.byte, string.char, string.sub
local concat, min = table.concat, math.min
local need = reader_of.need
local null = ngx.null

-- The longest payload of one packet; what is longer continues in the next.
local PAYLOAD_MAX = 0xffffff

local function number_bytes(n, bytes)
    if bytes == 2 then
        return char(band(n, 255), band(rshift(n, 8), 255))
    elseif bytes == 3 then
        return char(band(n, 255), band(rshift(n, 8), 255), band(rshift(n, 16), 255))
    end
    return char(band(n, 255), band(rshift(n, 8), 255), band(rshift(n, 16), 255), rshift(n, 24))
end

-- The stream can no longer be followed: nobody may use this connection again.
local function broken(self, err)
    self.sock:close()
    return nil, err
end

local function receive_failed(self, what, err)
    if err == "timeout" then
        self.sock:close()
    end
    return nil, what .. err
end

-- A packet with every payload full continues in the next one.
local function join_payloads(self, reader, from, size)
    local parts, total, n = { sub(reader.buf, from, from + size - 1) }, size, 1
    while size == PAYLOAD_MAX do
        local ok, err = need(reader, 4)
        if not ok then
            return receive_failed(self, "failed to receive packet header: ", err)
        end
        local low, middle, high, number = byte(reader.buf, reader.pos, reader.pos + 3)
        self.packet_no = number
        size = low + middle * 256 + high * 65536
        reader.pos = reader.pos + 4
        total = total + size
        if total > self._max_packet_size then
            return broken(self, "packet size too big: " .. total)
        end
        ok, err = need(reader, size)
        if not ok then
            return receive_failed(self, "failed to read packet content: ", err)
        end
        n = n + 1
        parts[n] = sub(reader.buf, reader.pos, reader.pos + size - 1)
        reader.pos = reader.pos + size
    end
    return concat(parts), 1, total
end

-- The next packet: the string that it is part of, where it begins and ends, and its first byte. nil
-- and an error else.
local function receive_packet(self)
    local reader = self._in
    local ok, err = need(reader, 4)
    if not ok then
        return receive_failed(self, "failed to receive packet header: ", err)
    end
    local pos = reader.pos
    local low, middle, high, number = byte(reader.buf, pos, pos + 3)
    local size = low + middle * 256 + high * 65536
    if size == 0 then
        return broken(self, "empty packet")
    end
    if size > self._max_packet_size then
        return broken(self, "packet size too big: " .. size)
    end
    reader.pos = pos + 4
    ok, err = need(reader, size)
    if not ok then
        return receive_failed(self, "failed to read packet content: ", err)
    end
    self.packet_no = number
    local buf
    buf, pos = reader.buf, reader.pos
    reader.pos = pos + size
    if size == PAYLOAD_MAX then
        buf, pos, size = join_payloads(self, reader, pos, size)
        if not buf then
            return nil, pos
        end
    end
    return buf, pos, pos + size - 1, byte(buf, pos)
end

local function send_packet(self, payload)
    local sock = self.sock
    local number, size = self.packet_no, #payload
    local pieces, n, from = {}, 0, 1
    repeat
        local left = size - from + 1
        local part = min(left, PAYLOAD_MAX)
        number = band(number + 1, 255)
        pieces[n + 1] = number_bytes(part, 3) .. char(number)
        pieces[n + 2] = part == size and payload or sub(payload, from, from + part - 1)
        n, from = n + 2, from + part
    until part < PAYLOAD_MAX
    self.packet_no = number
    local bytes, err = sock:send(pieces)
    if not bytes and err == "timeout" then
        sock:close()
    end
    return bytes, err
end

-- Values ----------------------------------------------------------------------------------------

-- A number of 2 bytes; 0 where the packet ends.
local function number2(buf, pos)
    local low, high = byte(buf, pos, pos + 1)
    return (low or 0) + (high or 0) * 256
end

-- A length-encoded number and the position after it; null for NULL, nil where the packet is bad.
local function lenenc(buf, pos, last)
    local first, a, b, c, d, e, f, g, h = byte(buf, pos, min(pos + 8, last))
    if not first or first == 255 then
        return nil, pos
    elseif first <= 250 then
        return first, pos + 1
    elseif first == 251 then
        return null, pos + 1
    elseif first == 252 then
        return b and a + b * 256, pos + 3
    elseif first == 253 then
        return c and a + b * 256 + c * 65536, pos + 4
    end
    return h and a + b * 256 + c * 65536 + d * 16777216
           + (e + f * 256 + g * 65536 + h * 16777216) * 4294967296, pos + 9
end

-- A length-encoded string likewise.
local function lenenc_string(buf, pos, last)
    local size
    size, pos = lenenc(buf, pos, last)
    if not size or size == null then
        return size, pos
    end
    if size > last - pos + 1 then
        return nil, pos
    end
    return sub(buf, pos, pos + size - 1), pos + size
end

local function parse_ok(buf, pos, last)
    local result = new_tab(0, 5)
    result.affected_rows, pos = lenenc(buf, pos + 1, last)
    result.insert_id, pos = lenenc(buf, pos, last)
    if not result.affected_rows or not result.insert_id then
        return nil
    end
    result.server_status = number2(buf, pos)
    result.warning_count = number2(buf, pos + 2)
    local message = lenenc_string(buf, pos + 4, last)
    if message and message ~= null then
        result.message = message
    end
    return result
end

-- What an error packet says: message, number, SQL state.
local function parse_error(buf, pos, last)
    local number, state = number2(buf, pos + 1), nil
    pos = pos + 3
    if byte(buf, pos) == 35 then
        state = sub(buf, pos + 1, pos + 5)
        pos = pos + 6
    end
    return sub(buf, pos, last), number, state
end

return {
    number_bytes = number_bytes, broken = broken, receive = receive_packet, send = send_packet,
    number2 = number2, lenenc = lenenc, lenenc_string = lenenc_string, parse_ok = parse_ok,
    parse_error = parse_error,
}
