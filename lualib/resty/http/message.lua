-- HTTP/1 messages (RFC 9112) without their bodies: makes the head of a request, reads the head of
-- a response. resty.http is the caller.

local http_headers = require "resty.http_headers"

local concat = table.concat
local byte, find, lower, match, sub = string.byte, string.find, string.lower, string.match,
                                      string.sub
local pairs, ipairs = pairs, ipairs
local tonumber, tostring = tonumber, tostring
local type = type

local line_bytes_max = 65536
local head_bytes_max = 262144
local text_bytes_shown = 256

local versions = {
    [1.0] = " HTTP/1.0\r\n",
    [1.1] = " HTTP/1.1\r\n",
}

local _M = {}

-- One field line, or nil and an error.
local function field_line(name, value)
    value = tostring(value)
    if find(value, "[\r\n%z]") then
        return nil, "invalid value of header " .. name
    end
    return name .. ": " .. value .. "\r\n"
end

-- The field lines of one header: a table holds a line for each value.
local function header_text(name, value)
    if name == "" or find(name, "[%c%s:]") then
        return nil, "invalid header name: " .. name
    end
    if type(value) ~= "table" then
        return field_line(name, value)
    end
    local lines = {}
    for i, one in ipairs(value) do
        local line, err = field_line(name, one)
        if not line then
            return nil, err
        end
        lines[i] = line
    end
    return concat(lines)
end

-- The text of a request's head, or nil and an error.
function _M.request_head(method, target, version, headers)
    local ending = versions[tonumber(version)]
    if not ending then
        return nil, "unsupported HTTP version: " .. tostring(version)
    end
    if find(method, "[%c%s]") then
        return nil, "invalid method"
    end
    if find(target, "[\r\n%z]") then
        return nil, "invalid request target"
    end
    local parts, count = { method, " ", target, ending }, 4
    for name, value in pairs(headers) do
        local text, err = header_text(name, value)
        if not text then
            return nil, err
        end
        count = count + 1
        parts[count] = text
    end
    parts[count + 1] = "\r\n"
    return concat(parts)
end

-- The body's length when it can be known: nil of a function.
function _M.body_length(body)
    local kind = type(body)
    if kind == "function" then
        return nil
    end
    if kind ~= "table" then
        return #tostring(body)
    end
    local length = 0
    for _, part in ipairs(body) do
        length = length + (type(part) == "table" and _M.body_length(part) or #tostring(part))
    end
    return length
end

-- status, version and reason of a status line, or nil and an error.
local function parse_status_line(line)
    local version, rest = match(line, "^HTTP/(%d%.%d)(.*)$")
    if not version then
        return nil, "couldn't parse HTTP version from response status line: "
                    .. sub(line, 1, text_bytes_shown)
    end
    local status, reason = match(rest, "^ (%d%d%d) ?(.*)$")
    if not status then
        return nil, "couldn't parse status code from response status line: "
                    .. sub(line, 1, text_bytes_shown)
    end
    return tonumber(status), tonumber(version), reason
end

local function add_header(headers, name, value)
    local had = headers[name]
    if had == nil then
        headers[name] = value
    elseif type(had) == "table" then
        had[#had + 1] = value
    else
        headers[name] = { had, value }
    end
end

-- A line that begins with white space goes on with the value before it (RFC 9112, section 5.2).
local function fold(headers, name, line)
    local more = match(line, "^%s+(.-)%s*$")
    local had = headers[name]
    if type(had) == "table" then
        had[#had] = had[#had] .. " " .. more
    elseif had then
        headers[name] = had .. " " .. more
    end
end

-- The next line without its end; or nil and an error. An endless line must not fill the memory.
local function receive_line(sock)
    local line, err = sock:receive("*l", line_bytes_max)
    return line, err
end
_M.receive_line = receive_line

-- Field lines up to the empty line; or nil and an error. Lines that are no field are skipped.
function _M.receive_headers(sock)
    local headers = http_headers.new()
    local total, last = 0, nil
    while true do
        local line, err = receive_line(sock)
        if not line then
            return nil, err
        end
        if not find(line, "%S") then
            return headers
        end
        total = total + #line
        if total > head_bytes_max then
            return nil, "response header too large"
        end
        local first = byte(line)
        if (first == 32 or first == 9) and last then
            fold(headers, last, line)
        else
            local name, value = match(line, "^([^%s:]+):%s*(.-)%s*$")
            last = name
            if name then
                add_header(headers, name, value)
            end
        end
    end
end

-- {status, version, reason, headers}; or nil, error and whether nothing at all had come.
function _M.receive_head(sock)
    local line, err = receive_line(sock)
    if not line then
        return nil, err, true
    end
    local status, version, reason = parse_status_line(line)
    if not status then
        return nil, version
    end
    local headers
    headers, err = _M.receive_headers(sock)
    if not headers then
        return nil, err
    end
    return { status = status, version = version, reason = reason, headers = headers }
end

-- A field's value as one string: values of several lines are joined; nil when it is absent.
function _M.joined(headers, name)
    local value = headers[name]
    if type(value) == "table" then
        return concat(value, ",")
    end
    return value
end

function _M.is_chunked(headers)
    local value = _M.joined(headers, "Transfer-Encoding")
    return value ~= nil and find(lower(value), "chunked", 1, true) ~= nil
end

-- The declared length: a number; nil when there is none; nil and an error when it is no length
-- (RFC 9112, section 6.3: such a message cannot be framed).
function _M.content_length(headers)
    local value = headers["Content-Length"]
    if type(value) == "table" then
        for _, one in ipairs(value) do
            if one ~= value[1] then
                return nil, "conflicting Content-Length in response"
            end
        end
        value = value[1]
    end
    if value == nil then
        return nil
    end
    if not find(value, "^%d+$") or #value > 15 then
        return nil, "invalid Content-Length in response: " .. sub(value, 1, text_bytes_shown)
    end
    return (tonumber(value))
end

-- Whether the connection may serve another request after this response.
function _M.keeps_alive(version, headers)
    local value = _M.joined(headers, "Connection")
    value = value and lower(value)
    if version >= 1.1 then
        return not (value and find(value, "close", 1, true))
    end
    return value ~= nil and find(value, "keep-alive", 1, true) ~= nil
end

return _M
