-- Bodies of HTTP/1 messages (RFC 9112, sections 6 and 7) as functions that give them piece by
-- piece. A reader is called with the most bytes wanted (nil: its default) and returns a piece, nil
-- at the end, or nil, an error and what had come of the piece. `finish`, if given, is called once
-- when the last byte of the message has been read. resty.http is the caller.

local message = require "resty.http.message"

local format, match = string.format, string.match
local tonumber = tonumber
local receive_line = message.receive_line
local log = ngx.log
local ERR = ngx.ERR

local _M = {}

local function limit_of(wanted, default)
    local limit = tonumber(wanted) or default
    return limit and limit > 0 and limit or nil
end

-- Who began with a size has to go on with one: the rest in one piece would be a surprise.
local function size_forgotten(streaming, limit)
    if streaming and not limit then
        log(ERR, "Buffer size not specified, bailing")
        return true
    end
    return false
end

function _M.none()
    return nil
end

-- `length` bytes.
function _M.sized(sock, length, default, finish)
    local left, streaming = length, false
    if left == 0 and finish then
        finish()
    end
    return function(wanted)
        if left == 0 then
            return nil
        end
        local limit = limit_of(wanted, default)
        if size_forgotten(streaming, limit) then
            left = 0
            return nil
        end
        streaming = limit ~= nil
        local bytes = limit and limit < left and limit or left
        local data, err, partial = sock:receive(bytes)
        if not data then
            left = 0
            return nil, err, partial
        end
        left = left - bytes
        if left == 0 and finish then
            finish()
        end
        return data
    end
end

-- All there is until the peer closes the connection.
function _M.until_close(sock, default)
    local streaming, ended = false, false
    return function(wanted)
        if ended then
            return nil
        end
        local limit = limit_of(wanted, default)
        if size_forgotten(streaming, limit) then
            ended = true
            return nil
        end
        streaming = limit ~= nil
        local data, err, partial = sock:receive(limit or "*a")
        if data then
            ended = not limit
            return data
        end
        ended = true
        if err == "closed" then
            return partial ~= "" and partial or nil
        end
        return nil, err, partial
    end
end

-- The size a chunk's first line announces, without its extensions.
local function chunk_size(line)
    local digits = match(line, "^%s*(%x+)%s*$") or match(line, "^%s*(%x+)%s*;")
    return digits and #digits <= 13 and tonumber(digits, 16)
end

-- chunked(sock, default, finish): `finish` gets the trailer fields.
function _M.chunked(sock, default, finish)
    local left, begun, ended = 0, false, false

    local function fail(err, partial)
        ended = true
        return nil, err, partial
    end

    -- The next chunk's size; the line end of the one before comes first.
    local function next_chunk()
        if begun then
            local line, err = receive_line(sock)
            if not line then
                return nil, err
            end
            if line ~= "" then
                return nil, "unable to read the end of a chunk"
            end
        end
        begun = true
        local line, err = receive_line(sock)
        if not line then
            return nil, err
        end
        local size = chunk_size(line)
        if not size then
            return nil, "unable to read chunksize"
        end
        return size
    end

    return function(wanted)
        if ended then
            return nil
        end
        if left == 0 then
            local err
            left, err = next_chunk()
            if not left then
                return fail(err)
            end
            if left == 0 then
                local trailers
                trailers, err = message.receive_headers(sock)
                if not trailers then
                    return fail(err)
                end
                ended = true
                if finish then
                    finish(trailers)
                end
                return nil
            end
        end
        local limit = limit_of(wanted, default)
        local bytes = limit and limit < left and limit or left
        local data, err, partial = sock:receive(bytes)
        if not data then
            return fail(err, partial)
        end
        left = left - bytes
        return data
    end
end

-- The other way: a function that gives the pieces of `next_piece` as chunks, the closing one too.
function _M.framed(next_piece)
    local ended = false
    return function()
        if ended then
            return nil
        end
        local piece, err
        repeat
            piece, err = next_piece()
        until piece ~= ""
        if piece then
            return format("%x\r\n", #piece) .. piece .. "\r\n"
        end
        ended = true
        if err then
            return nil, err
        end
        return "0\r\n\r\n"
    end
end

return _M
