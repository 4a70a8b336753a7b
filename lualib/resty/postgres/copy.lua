-- PostgreSQL's COPY, in both directions: methods of resty.postgres' object.

local results = require "resty.postgres.results"
local session = require "resty.postgres.session"
local wire = require "resty.postgres.wire"

local concat = table.concat
local pcall, tostring, type = pcall, tostring, type
local sub = string.sub
local ask, completed, read_result = results.ask, results.completed, results.read
local failed, next_message, send = session.failed, session.next_message, session.send
local message, until_ready = wire.message, session.until_ready

-- How much of COPY's data goes out in one piece.
local COPY_PIECE_MIN = 65536

-- Messages' kinds
local COMMAND_COMPLETE, COPY_DATA = 67, 100
local COPY_IN, COPY_OUT, FAILURE = results.COPY_IN, results.COPY_OUT, session.FAILURE

-- Asks for a COPY: true when the server goes along.
local function begin_copy(self, sql, wanted)
    local bytes, err = ask(self, message("Q", sql .. "\0"))
    if not bytes then
        return nil, err
    end
    local kind, buf, pos, last = next_message(self)
    if kind == wanted then
        return true
    elseif not kind then
        return nil, buf
    elseif kind == FAILURE then
        return until_ready(self, failed(self, buf, pos, last))
    end
    -- Some other statement: its result is not wanted.
    if kind == COPY_IN then
        results.refuse_copy(self, kind)
    end
    return until_ready(self, nil, "not a COPY in this direction")
end

-- What gives the source's next piece: nil at its end.
local function pieces_of(source)
    if type(source) == "function" then
        return source
    end
    local list, i = type(source) == "table" and source or { source }, 0
    return function()
        i = i + 1
        return list[i]
    end
end

local function send_copy(self, next_piece)
    local pieces, n, size = {}, 0, 0
    while true do
        local ok, piece, err = pcall(next_piece)
        if not ok or err then
            return send(self, message("f", tostring(ok and err or piece) .. "\0"))
        end
        if piece then
            n, size = n + 1, size + #piece
            pieces[n] = message("d", piece)
        end
        if size >= COPY_PIECE_MIN or not piece then
            local bytes, why = send(self, piece and pieces or concat(pieces) .. wire.COPY_DONE)
            if not bytes then
                return nil, why
            end
            if not piece then
                return true
            end
            pieces, n, size = {}, 0, 0
        end
    end
end

-- Sends a string, a list of strings, or what a function returns until nil.
local function copy_in(self, sql, source)
    local ok, err, report = begin_copy(self, sql, COPY_IN)
    if not ok then
        return nil, err, report
    end
    ok, err = send_copy(self, pieces_of(source))
    if not ok then
        return nil, err
    end
    return read_result(self)
end

-- Gives the list of pieces, or calls sink(piece) for each.
local function copy_out(self, sql, sink)
    local ok, err, report = begin_copy(self, sql, COPY_OUT)
    if not ok then
        return nil, err, report
    end
    local list, n = {}, 0
    while true do
        local kind, buf, pos, last = next_message(self)
        if not kind then
            return nil, buf
        elseif kind == COPY_DATA then
            local piece = sub(buf, pos, last)
            if sink then
                sink(piece)
            else
                n = n + 1
                list[n] = piece
            end
        elseif kind == COMMAND_COMPLETE then
            return completed(self, not sink and list, nil, buf, pos, last)
        elseif kind == FAILURE then
            return until_ready(self, failed(self, buf, pos, last))
        end
    end
end

return { copy_in = copy_in, copy_out = copy_out }
