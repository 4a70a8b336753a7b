-- What PostgreSQL answers to a query: rows, counts, errors, and whether more follows. For
-- resty.postgres and postgres/copy.lua, whose connection object `self` is.

local session = require "resty.postgres.session"
local wire = require "resty.postgres.wire"

local match = string.match
local tonumber = tonumber
local became_ready, failed, lost = session.became_ready, session.failed, session.lost
local next_message, send, until_ready = session.next_message, session.send, session.until_ready

-- Messages' kinds
local COMMAND_COMPLETE, DATA_ROW, EMPTY_QUERY, ROW_DESCRIPTION = 67, 68, 73, 84
local COPY_IN, COPY_OUT = 71, 72
local FAILURE, READY = session.FAILURE, session.READY

-- Sends what asks for a result, unless there is one to be read.
local function ask(self, data)
    if self.state ~= "ready" then
        return nil, "cannot send query in the current state: " .. (self.state or "not connected")
    end
    local bytes, err = send(self, data)
    if not bytes then
        return nil, err
    end
    self.state = "busy"
    return bytes
end

-- After one result: the session is ready, or another result begins with the message just seen.
local function finish(self, result, info)
    local kind, buf, pos = next_message(self)
    if not kind then
        return nil, buf
    end
    if kind == READY then
        became_ready(self, buf, pos)
        return result, nil, info
    end
    self._in.pos = pos - 5
    return result, "again", info
end

local function completed(self, rows, described, buf, pos, last)
    local tag = wire.cstring(buf, pos, last) or ""
    local info = { command = match(tag, "^%a[%a ]*%a") or tag,
                   affected_rows = tonumber(match(tag, "(%d+)$")), columns = described }
    return finish(self, rows or { command = info.command, affected_rows = info.affected_rows },
                  info)
end

-- COPY by way of query(): it ends with an error, and the session stays usable.
local function refuse_copy(self, kind)
    if kind == COPY_IN then
        local bytes, err = send(self, wire.message("f", "use copy_in()\0"))
        return bytes and true, err
    end
    self._refused = "use copy_out() for COPY ... TO STDOUT"
    return true
end

local function read_result(self)
    local rows, n, names, decode, described = nil, 0, nil, nil, nil
    local compact = self.compact
    while true do
        local kind, buf, pos, last = next_message(self)
        if not kind then
            return nil, buf
        elseif kind == DATA_ROW then
            local row = names and wire.row(buf, pos, last, names, decode, compact)
            if not row then
                return lost(self, "malformed row")
            end
            n = n + 1
            rows[n] = row
        elseif kind == ROW_DESCRIPTION then
            names, decode, described = wire.columns(buf, pos, last, self._decoders)
            if not names then
                return lost(self, "malformed row description")
            end
            rows = {}
        elseif kind == COMMAND_COMPLETE then
            if self._refused then
                local err = self._refused
                self._refused = false
                return until_ready(self, nil, err)
            end
            return completed(self, rows, described, buf, pos, last)
        elseif kind == EMPTY_QUERY then
            return finish(self, {}, { command = "" })
        elseif kind == FAILURE then
            return until_ready(self, failed(self, buf, pos, last))
        elseif kind == READY then
            became_ready(self, buf, pos)
            return {}, nil, { command = "" }
        elseif kind == COPY_IN or kind == COPY_OUT then
            local ok, err = refuse_copy(self, kind)
            if not ok then
                return nil, err
            end
        end
    end
end

return { COPY_IN = COPY_IN, COPY_OUT = COPY_OUT, ask = ask, completed = completed,
         read = read_result, refuse_copy = refuse_copy }
