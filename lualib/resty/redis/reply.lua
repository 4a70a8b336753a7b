-- Redis' replies (RESP2), taken from a reader: read() the next one, whole_bulk() the short
-- string that is all there is. For resty.redis; it knows no commands.

local new_tab = require "table.new"
local reader_of = require "resty.reader"

local byte, sub = string.byte, string.sub
local tonumber, tostring = tonumber, tostring
local min = math.min
local null = ngx.null
local line, need = reader_of.line, reader_of.need

-- What a sane server sends: Redis limits a string to 512 MB; nothing nests replies this deep.
local BULK_BYTES_MAX = 512 * 1024 * 1024
local DEPTH_MAX = 32
-- Room made for an array before its elements have come.
local ARRAY_ROOM_MAX = 4096

local ARRAY, BULK, INTEGER, STATUS, FAILURE = 42, 36, 58, 43, 45
local MINUS, ZERO, NINE = 45, 48, 57

-- The stream can no longer be followed: nobody may use this connection again.
local function broken(reader, err)
    reader.sock:close()
    reader_of.reset(reader)
    return nil, err
end

-- The integer in `buf` between two positions; nil when there is none.
local function number_in(buf, from, to)
    local first, second = byte(buf, from, to)
    if not first or first ~= MINUS and (first < ZERO or first > NINE) then
        return nil
    end
    if from == to then
        return first - ZERO
    end
    if to == from + 1 and first ~= MINUS and second >= ZERO and second <= NINE then
        return (first - ZERO) * 10 + second - ZERO
    end
    return (tonumber(sub(buf, from, to)))
end

local function read_bulk(reader, size)
    if size > BULK_BYTES_MAX then
        return broken(reader, "bulk reply too large: " .. size)
    end
    local ok, err = need(reader, size + 2)
    if not ok then
        return nil, err
    end
    local buf, pos = reader.buf, reader.pos
    if byte(buf, pos + size) ~= 13 then
        return broken(reader, "bulk reply without its line end")
    end
    reader.pos = pos + size + 2
    return sub(buf, pos, pos + size - 1)
end

local read_value

local function read_array(reader, count, depth)
    if depth >= DEPTH_MAX then
        return broken(reader, "reply nested too deep")
    end
    local values = new_tab(min(count, ARRAY_ROOM_MAX), 0)
    for i = 1, count do
        local value, why = read_value(reader, depth + 1)
        if value == nil then
            return nil, why
        end
        values[i] = value or { false, why }
    end
    return values
end

-- The next reply: a value, or false and the server's error, or nil and what went wrong on the way.
read_value = function(reader, depth)
    local from, to = line(reader)
    if not from then
        return nil, to
    end
    local buf = reader.buf
    local kind = from <= to and byte(buf, from) or nil
    if kind == STATUS then
        return sub(buf, from + 1, to)
    end
    if kind == FAILURE then
        return false, sub(buf, from + 1, to)
    end
    if kind ~= BULK and kind ~= INTEGER and kind ~= ARRAY then
        return broken(reader, 'unknown prefix: "' .. tostring(kind) .. '"')
    end
    local number = number_in(buf, from + 1, to)
    if not number then
        local shown = sub(buf, from, min(to, from + 31))
        return broken(reader, 'bad number in reply: "' .. shown .. '"')
    end
    if kind == INTEGER then
        return number
    end
    if number < 0 then
        return null
    end
    if kind == BULK then
        return read_bulk(reader, number)
    end
    return read_array(reader, number, depth)
end

-- The string when `data` is one short bulk reply and nothing else: what most replies are.
local function whole_bulk(data)
    local kind, first, second, third, fourth = byte(data, 1, 5)
    if kind ~= BULK or not fourth or first < ZERO or first > NINE then
        return nil
    end
    local size, from
    if second == 13 then
        size, from = first - ZERO, 5
    elseif third == 13 then
        size, from = (first - ZERO) * 10 + second - ZERO, 6
    elseif fourth == 13 then
        size, from = (first - ZERO) * 100 + (second - ZERO) * 10 + third - ZERO, 7
    end
    if size and #data == from + size + 1 then
        return sub(data, from, from + size - 1)
    end
    return nil
end

return {
    broken = broken,
    whole_bulk = whole_bulk,
    read = function(reader)
        return read_value(reader, 0)
    end,
}
