-- PostgreSQL's messages (protocol 3.0): making them, taking them from a reader, taking them apart.
-- For resty.postgres; it keeps no state of a session.

local bit = require "bit"
local new_tab = require "table.new"
local reader_of = require "resty.reader"
local types = require "resty.postgres.types"

local band, rshift = bit.band, bit.rshift
local byte, char, find, sub = string.byte, string.char, string.find, string.sub
local concat, select = table.concat, select
local need = reader_of.need
local null = ngx.null
local text_of = types.text_of

local NULL_LENGTH = "\255\255\255\255"
local PARAMETERS_MAX = 65535

local _M = {}

-- Making ----------------------------------------------------------------------------------------

local function int16(n)
    return char(band(rshift(n, 8), 255), band(n, 255))
end

local function int32(n)
    return char(band(rshift(n, 24), 255), band(rshift(n, 16), 255), band(rshift(n, 8), 255),
                band(n, 255))
end
_M.int32 = int32

function _M.message(kind, body)
    return kind .. int32(#body + 4) .. body
end
local message = _M.message

_M.SYNC = message("S", "")
_M.TERMINATE = message("X", "")
_M.COPY_DONE = message("c", "")
_M.SSL_REQUEST = int32(8) .. int32(80877103)

-- The first message of a session, from a list of names and values.
function _M.startup(list)
    local body = int32(196608) .. concat(list, "\0") .. "\0\0"
    return int32(#body + 4) .. body
end

function _M.cancel_request(key)
    return int32(#key + 8) .. int32(80877102) .. key
end

function _M.parse(name, sql, oids)
    return message("P", name .. "\0" .. sql .. "\0" .. (oids or int16(0)))
end

function _M.close_statement(name)
    return message("C", "S" .. name .. "\0")
end

local DESCRIBE_PORTAL = message("D", "P\0")
local EXECUTE_PORTAL = message("E", "\0\0\0\0\0")

-- Parameters of a statement: the body of Bind after its names, and the types for Parse.
local function parameters(...)
    local n = select("#", ...)
    if n > PARAMETERS_MAX then
        error("too many parameters", 0)
    end
    local formats, oids, values = new_tab(n, 0), new_tab(n, 0), new_tab(2 * n, 0)
    for i = 1, n do
        local text, oid, binary = text_of((select(i, ...)))
        formats[i] = binary and "\0\1" or "\0\0"
        oids[i] = int32(oid)
        values[2 * i - 1] = text and int32(#text) or NULL_LENGTH
        values[2 * i] = text or ""
    end
    local count = int16(n)
    return count .. concat(formats) .. count .. concat(values) .. int16(0), count .. concat(oids)
end

-- What runs a statement: the prepared one of that name, or `sql`.
function _M.execution(name, sql, ...)
    local bound, oids = parameters(...)
    local bind = message("B", "\0" .. name .. "\0" .. bound)
    local rest = bind .. DESCRIBE_PORTAL .. EXECUTE_PORTAL .. _M.SYNC
    return sql and _M.parse(name, sql, oids) .. rest or rest
end

-- Taking ----------------------------------------------------------------------------------------

local function number16(buf, pos)
    local high, low = byte(buf, pos, pos + 1)
    return high * 256 + low
end

local function number32(buf, pos)
    local a, b, c, d = byte(buf, pos, pos + 3)
    return a * 16777216 + b * 65536 + c * 256 + d
end
_M.number32 = number32

-- The next message: its kind, the string it is part of, where its body begins and ends. nil and an
-- error else.
function _M.receive(reader, size_max)
    local ok, err = need(reader, 5)
    if not ok then
        return nil, err
    end
    local kind = byte(reader.buf, reader.pos)
    local size = number32(reader.buf, reader.pos + 1) - 4
    if size < 0 or size > size_max then
        return nil, "message too large: " .. size
    end
    ok, err = need(reader, size + 5)
    if not ok then
        return nil, err
    end
    local pos = reader.pos + 5
    reader.pos = pos + size
    return kind, reader.buf, pos, pos + size - 1
end

-- A string up to its zero byte, and the position after it; nil where there is none.
local function cstring(buf, pos, last)
    local ending = find(buf, "\0", pos, true)
    if not ending or ending > last then
        return nil
    end
    return sub(buf, pos, ending - 1), ending + 1
end
_M.cstring = cstring

local report_fields = {
    S = "severity", V = "severity", C = "code", M = "message", D = "detail", H = "hint",
    P = "position", p = "internal_position", q = "internal_query", W = "where", s = "schema",
    t = "table", c = "column", d = "data_type", n = "constraint", F = "file", L = "line",
    R = "routine",
}

-- An error or a notice as a table of its fields.
function _M.report(buf, pos, last)
    local report = {}
    while pos and pos < last do
        local name, value = report_fields[char(byte(buf, pos))], nil
        value, pos = cstring(buf, pos + 1, last)
        if name then
            report[name] = value
        end
    end
    report.message = report.message or "unknown error"
    return report
end

-- The columns of the rows to come: names, decoders (false for none) and a list that describes them.
function _M.columns(buf, pos, last, decoders)
    if last < pos + 1 then
        return nil
    end
    local count = number16(buf, pos)
    local names, decode, described = {}, {}, {}
    pos = pos + 2
    for i = 1, count do
        local name
        name, pos = cstring(buf, pos, last)
        if not name or pos + 17 > last then
            return nil
        end
        local oid = number32(buf, pos + 6)
        names[i], decode[i] = name, decoders[oid] or false
        described[i] = { name = name, type = oid }
        pos = pos + 18
    end
    return names, decode, described
end

-- One row; nil where the message is bad.
function _M.row(buf, pos, last, names, decode, compact)
    local count = #names
    if last < pos + 1 or number16(buf, pos) ~= count then
        return nil
    end
    local row = compact and new_tab(count, 0) or new_tab(0, count)
    pos = pos + 2
    for i = 1, count do
        if pos + 3 > last then
            return nil
        end
        local size, value = number32(buf, pos), null
        pos = pos + 4
        if size ~= 4294967295 then
            if pos + size - 1 > last then
                return nil
            end
            value = sub(buf, pos, pos + size - 1)
            local decoder = decode[i]
            if decoder then
                value = decoder(value)
            end
            pos = pos + size
        end
        row[compact and i or names[i]] = value
    end
    return row
end

return _M
