-- PostgreSQL's values as Lua's and back: decoders by type number, and the text of a parameter. It
-- touches no socket.

local cjson = require "cjson.safe"

local byte, find, format, sub = string.byte, string.find, string.format, string.sub
local gsub = string.gsub
local concat, floor = table.concat, math.floor
local error, setmetatable, tonumber, tostring, type = error, setmetatable, tonumber, tostring, type
local getmetatable = getmetatable
local null = ngx.null

local ARRAY_DEPTH_MAX = 6 -- PostgreSQL's own limit on dimensions
-- Integers up to this one, and no text of another integer, are exact in a Lua number.
local EXACT_MAX = 9007199254740991
local BYTEA = 17

local _M = {}

-- Decoding --------------------------------------------------------------------------------------

local function to_boolean(text)
    return text == "t"
end

local function to_number(text)
    return tonumber(text) or text
end

local function to_exact(text)
    local n = tonumber(text)
    if n and n <= EXACT_MAX and n >= -EXACT_MAX then
        return n
    end
    return text
end

local byte_of = {}
for i = 0, 255 do
    byte_of[format("%02x", i)] = string.char(i)
end

local function to_bytes(text)
    if sub(text, 1, 2) ~= "\\x" then
        return text
    end
    return (gsub(sub(text, 3), "..", byte_of))
end

local function to_json(text)
    local value = cjson.decode(text)
    if value == nil then
        return text
    end
    return value
end

-- An element in quotes that begins at `pos`: its text and the position after it.
local function quoted(text, pos)
    local parts, n = {}, 0
    pos = pos + 1
    while true do
        local at = find(text, '["\\]', pos)
        if not at then
            return nil
        end
        n = n + 1
        parts[n] = sub(text, pos, at - 1)
        if byte(text, at) == 34 then
            return concat(parts), at + 1
        end
        n = n + 1
        parts[n] = sub(text, at + 1, at + 1)
        pos = at + 2
    end
end

local function parse_array(text, pos, decode, depth)
    local list, n = {}, 0
    if depth > ARRAY_DEPTH_MAX then
        return nil
    end
    pos = pos + 1
    if byte(text, pos) == 125 then
        return list, pos + 1
    end
    while true do
        local first, value = byte(text, pos), nil
        if first == 123 then
            value, pos = parse_array(text, pos, decode, depth + 1)
        elseif first == 34 then
            value, pos = quoted(text, pos)
            value = value and decode(value)
        else
            local at = find(text, "[,}]", pos)
            if not at then
                return nil
            end
            value = sub(text, pos, at - 1)
            value, pos = value == "NULL" and null or decode(value), at
        end
        if not pos then
            return nil
        end
        n = n + 1
        list[n] = value
        local after = byte(text, pos)
        if after == 125 then
            return list, pos + 1
        elseif after ~= 44 then
            return nil
        end
        pos = pos + 1
    end
end

local function array_of(decode)
    return function(text)
        -- Bounds that are not the usual ones come first: [0:1]={1,2}
        local from = find(text, "{", 1, true)
        return from and parse_array(text, from, decode, 1) or text
    end
end

local function same(text)
    return text
end

-- Numbers are those of pg_type.dat. A type that is not here stays text; numeric stays text because
-- a Lua number would lose digits of it.
local decoders = {
    [16] = to_boolean, [BYTEA] = to_bytes, [20] = to_exact, [21] = to_number, [23] = to_number,
    [26] = to_number, [114] = to_json, [700] = to_number, [701] = to_number, [3802] = to_json,
    [1000] = array_of(to_boolean), [1001] = array_of(to_bytes), [1005] = array_of(to_number),
    [1007] = array_of(to_number), [1016] = array_of(to_exact), [1021] = array_of(to_number),
    [1022] = array_of(to_number), [1028] = array_of(to_number), [199] = array_of(to_json),
    [3807] = array_of(to_json),
}
-- char, name, text, bpchar, varchar, date, time, timestamp, timestamptz, interval, numeric, uuid
for _, oid in ipairs({ 1002, 1003, 1009, 1014, 1015, 1182, 1183, 1115, 1185, 1187, 1231, 2951 }) do
    decoders[oid] = array_of(same)
end
_M.decoders = decoders

-- Encoding --------------------------------------------------------------------------------------

-- A parameter of a certain type, or in binary.
local Typed = {}

function _M.typed(text, oid, binary)
    return setmetatable({ text = text, oid = oid, binary = binary }, Typed)
end

function _M.bytea(bytes)
    return _M.typed(bytes, BYTEA, true)
end

function _M.json(value)
    return _M.typed(assert(cjson.encode(value)), 0)
end

local function number_text(n)
    if n == floor(n) and n <= EXACT_MAX and n >= -EXACT_MAX then
        return format("%d", n)
    end
    return format("%.17g", n)
end

local text_of

local function array_text(list, depth)
    if depth > ARRAY_DEPTH_MAX then
        error("array nested too deep", 0)
    end
    local parts = {}
    for i = 1, #list do
        local value = list[i]
        if type(value) == "table" and getmetatable(value) ~= Typed then
            parts[i] = array_text(value, depth + 1)
        else
            local text, _, binary = text_of(value)
            if binary then
                error("bad parameter: binary value in an array", 0)
            end
            parts[i] = text and '"' .. gsub(text, '["\\]', "\\%0") .. '"' or "NULL"
        end
    end
    return "{" .. concat(parts, ",") .. "}"
end

-- A list as PostgreSQL's array; ngx.null is an element NULL.
function _M.array(list)
    return _M.typed(array_text(list, 1), 0)
end

-- A parameter's text, type number and whether it is binary; a nil text is NULL.
text_of = function(value)
    local kind = type(value)
    if kind == "string" then
        return value, 0, false
    elseif kind == "number" then
        return number_text(value), 0, false
    elseif kind == "boolean" then
        return value and "t" or "f", 0, false
    elseif value == nil or value == null then
        return nil, 0, false
    elseif kind == "table" and getmetatable(value) == Typed then
        return value.text, value.oid, value.binary
    elseif kind == "cdata" then
        return (gsub(tostring(value), "U?LL$", "")), 0, false
    end
    error("bad parameter: " .. kind .. " (see postgres.array, postgres.json)", 0)
end
_M.text_of = text_of

-- Quoting ---------------------------------------------------------------------------------------

function _M.quote_identifier(name)
    return '"' .. gsub(name, '"', '""') .. '"'
end

-- As quote_literal() does it: safe whatever standard_conforming_strings is.
function _M.quote_literal(value)
    local kind = type(value)
    if kind == "number" then
        return number_text(value)
    elseif kind == "boolean" then
        return value and "TRUE" or "FALSE"
    elseif value == nil or value == null then
        return "NULL"
    end
    local text = gsub(text_of(value), "'", "''")
    if find(text, "\\", 1, true) then
        return " E'" .. gsub(text, "\\", "\\\\") .. "'"
    end
    return "'" .. text .. "'"
end

return _M
