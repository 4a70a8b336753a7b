-- Bytes from a cosocket, taken in large pieces and handed out in small ones: fewer calls than
-- asking the socket for each header and line. For resty.redis, resty.mysql and resty.postgres.
--
-- A reader is { sock, buf, pos, keep }: the unread bytes are those of `buf` from `pos` on. What is
-- before `pos` is dropped when more is read, unless `keep` is a position to keep it from. After an
-- error what had come is still there, so a reading that timed out can begin again at `keep`.

local find, sub = string.find, string.sub

-- More than a socket's buffer usually holds.
local PIECE_BYTES_MAX = 65536
-- More missing bytes than this are asked for at once, as one string.
local SIZED_BYTES_MIN = 8192
local LINE_BYTES_MAX = 65536

local _M = { PIECE_BYTES_MAX = PIECE_BYTES_MAX }

function _M.new(sock)
    return { sock = sock, buf = "", pos = 1, keep = false }
end

function _M.reset(reader)
    reader.buf, reader.pos, reader.keep = "", 1, false
end

local function append(reader, data)
    local pos, keep = reader.pos, reader.keep
    if keep then
        reader.buf = sub(reader.buf, keep) .. data
        reader.pos, reader.keep = pos - keep + 1, 1
    else
        local buf = reader.buf
        reader.buf = pos > #buf and data or sub(buf, pos) .. data
        reader.pos = 1
    end
end

-- Waits for whatever comes next. Gives true, or nil and the socket's error.
local function fill(reader)
    local data, err = reader.sock:receiveany(PIECE_BYTES_MAX)
    if not data then
        return nil, err
    end
    append(reader, data)
    return true
end

-- Makes `n` unread bytes available: true, or nil and the socket's error.
function _M.need(reader, n)
    local missing = n - (#reader.buf - reader.pos + 1)
    while missing > 0 do
        if missing >= SIZED_BYTES_MIN then
            local data, err, partial = reader.sock:receive(missing)
            if not data then
                append(reader, partial or "")
                return nil, err
            end
            append(reader, data)
            return true
        end
        local ok, err = fill(reader)
        if not ok then
            return nil, err
        end
        missing = n - (#reader.buf - reader.pos + 1)
    end
    return true
end

-- The next line, without its CR and LF: where it begins and ends in `buf`. nil and an error else;
-- a line without end closes the socket.
function _M.line(reader)
    local from = reader.pos
    local at = find(reader.buf, "\r\n", from, true)
    while not at do
        if #reader.buf - from >= LINE_BYTES_MAX then
            reader.sock:close()
            _M.reset(reader)
            return nil, "line too long"
        end
        local ok, err = fill(reader)
        if not ok then
            return nil, err
        end
        from = reader.pos
        at = find(reader.buf, "\r\n", from, true)
    end
    reader.pos = at + 2
    return from, at - 1
end

-- True when there are bytes that nobody has read.
function _M.pending(reader)
    return reader.pos <= #reader.buf
end

return _M
