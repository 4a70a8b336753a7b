-- resty.postgres: a client for PostgreSQL on cosockets. Simple and extended queries, pipelines,
-- COPY, notifications, cancelling. Messages are the matter of postgres/wire.lua, values that of
-- postgres/types.lua, SCRAM that of postgres/scram.lua. The manual is postgres.md.

local new_tab = require "table.new"
local reader_of = require "resty.reader"
local scram = require "resty.postgres.scram"
local types = require "resty.postgres.types"
local wire = require "resty.postgres.wire"

local byte, sub = string.byte, string.sub
local concat = table.concat
local error, setmetatable, type = error, setmetatable, type
local pcall, select, tonumber = pcall, select, tonumber
local tcp = ngx.socket.tcp
local message, receive = wire.message, wire.receive

local _M = {
    _VERSION = "0.1", array = types.array, bytea = types.bytea, json = types.json,
    typed = types.typed, quote_literal = types.quote_literal,
    quote_identifier = types.quote_identifier,
}
local mt = { __index = _M }

local MESSAGE_BYTES_MAX = 64 * 1024 * 1024
local NOTIFICATIONS_MAX = 10000
local AUTH_ROUNDS_MAX = 8
local CANCEL_KEYS_MAX = 10000
-- How much of COPY data goes out in one piece.
local COPY_PIECE_MIN = 65536

-- Messages' kinds
local AUTHENTICATION, BACKEND_KEY, COMMAND_COMPLETE, DATA_ROW = 82, 75, 67, 68
local COPY_DATA, COPY_IN, COPY_OUT = 100, 71, 72
local EMPTY_QUERY, FAILURE, NOTICE, NOTIFICATION = 73, 69, 78, 65
local PARAMETER_STATUS, READY, ROW_DESCRIPTION = 83, 90, 84

-- Cancel keys of sessions that may be in a pool, by address and process number.
local cancel_keys, cancel_keys_count = {}, 0

-- Messages --------------------------------------------------------------------------------------

-- The session is over, or can no longer be followed.
local function lost(self, err)
    self.sock:close()
    self.state = nil
    return nil, err
end

local function notified(self, buf, pos, last)
    if last < pos + 4 then
        return
    end
    local process = wire.number32(buf, pos)
    local channel, after = wire.cstring(buf, pos + 4, last)
    local payload = channel and wire.cstring(buf, after, last)
    local queue = self._notifications
    queue.last = queue.last + 1
    queue[queue.last] = { channel = channel, payload = payload, pid = process }
    if queue.last - queue.first >= NOTIFICATIONS_MAX then
        queue[queue.first] = nil
        queue.first = queue.first + 1
        self.notifications_lost = self.notifications_lost + 1
    end
end

-- Whether the message is one of those that may come at any time; it has been dealt with then.
local function is_aside(self, kind, buf, pos, last)
    if kind == NOTIFICATION then
        notified(self, buf, pos, last)
    elseif kind == NOTICE then
        if self.on_notice then
            self.on_notice(wire.report(buf, pos, last))
        end
    elseif kind == PARAMETER_STATUS then
        local name, after = wire.cstring(buf, pos, last)
        if name then
            self.parameters[name] = wire.cstring(buf, after, last)
        end
    else
        return false
    end
    return true
end

-- The next message that belongs to what was asked. Any failure ends the session.
local function next_message(self)
    while true do
        local kind, buf, pos, last = receive(self._in, self._message_max)
        if not kind then
            return lost(self, buf)
        end
        if not is_aside(self, kind, buf, pos, last) then
            return kind, buf, pos, last
        end
    end
end

local function send(self, data)
    local bytes, err = self.sock:send(data)
    if not bytes then
        return lost(self, err)
    end
    return bytes
end

local function became_ready(self, buf, pos)
    self.state = "ready"
    self.transaction = sub(buf, pos, pos)
end

-- The server's error: nil, its message, all its fields. After a fatal one nothing comes any more.
local function failed(self, buf, pos, last)
    local report = wire.report(buf, pos, last)
    if report.severity == "FATAL" or report.severity == "PANIC" then
        lost(self)
    end
    return nil, report.message, report
end

-- Skips to the end of what was asked; the results of an error are passed through.
local function until_ready(self, ...)
    while self.state do
        local kind, buf, pos = next_message(self)
        if kind == READY then
            became_ready(self, buf, pos)
            break
        elseif not kind then
            return nil, buf
        end
    end
    return ...
end

-- Results ---------------------------------------------------------------------------------------

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
    local info = { command = tag:match("^%a[%a ]*%a") or tag,
                   affected_rows = tonumber(tag:match("(%d+)$")), columns = described }
    return finish(self, rows or { command = info.command, affected_rows = info.affected_rows },
                  info)
end

-- COPY by way of query(): it ends with an error, and the session stays usable.
local function refuse_copy(self, kind)
    if kind == COPY_IN then
        local bytes, err = send(self, message("f", "use copy_in()\0"))
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

-- Queries ---------------------------------------------------------------------------------------

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

-- Asks, or adds to the pipeline and gives nothing.
local function ask_and_read(self, data)
    local pipeline = self._pipeline
    if pipeline then
        pipeline[#pipeline + 1] = data
        return
    end
    local bytes, err = ask(self, data)
    if not bytes then
        return nil, err
    end
    return read_result(self)
end

function _M.send_query(self, sql, ...)
    if select("#", ...) > 0 then
        return ask(self, wire.execution("", sql, ...))
    end
    return ask(self, message("Q", sql .. "\0"))
end

function _M.read_result(self)
    if self.state ~= "busy" then
        return nil, "cannot read result in the current state: " .. (self.state or "not connected")
    end
    return read_result(self)
end

function _M.query(self, sql, ...)
    if self._pipeline or select("#", ...) > 0 then
        return ask_and_read(self, wire.execution("", sql, ...))
    end
    return ask_and_read(self, message("Q", sql .. "\0"))
end

function _M.prepare(self, name, sql)
    return ask_and_read(self, wire.parse(name, sql) .. wire.SYNC)
end

function _M.execute(self, name, ...)
    return ask_and_read(self, wire.execution(name, nil, ...))
end

function _M.deallocate(self, name)
    return ask_and_read(self, wire.close_statement(name) .. wire.SYNC)
end

function _M.init_pipeline(self, n)
    self._pipeline = new_tab(n or 4, 0)
end

function _M.cancel_pipeline(self)
    self._pipeline = false
end

function _M.commit_pipeline(self)
    local pipeline = self._pipeline
    if not pipeline then
        return nil, "no pipeline"
    end
    self._pipeline = false
    local bytes, err = ask(self, pipeline)
    if not bytes then
        return nil, err
    end
    local results = new_tab(#pipeline, 0)
    for i = 1, #pipeline do
        self.state = "busy"
        local result, why, report = read_result(self)
        if not self.state then
            return nil, why
        end
        results[i] = result or { false, why, report }
    end
    return results
end

-- COPY ------------------------------------------------------------------------------------------

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
        refuse_copy(self, kind)
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

function _M.copy_in(self, sql, source)
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

function _M.copy_out(self, sql, sink)
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

-- Notifications ---------------------------------------------------------------------------------

local function take_notification(self)
    local queue = self._notifications
    local first = queue.first
    if first > queue.last then
        return nil
    end
    local notification = queue[first]
    queue[first] = nil
    queue.first = first + 1
    return notification
end

function _M.wait_notification(self)
    local notification = take_notification(self)
    if notification then
        return notification
    end
    if self.state ~= "ready" then
        return nil, "cannot wait in the current state: " .. (self.state or "not connected")
    end
    local reader = self._in
    while not notification do
        -- A timeout takes nothing away: what had come is read again.
        reader.keep = reader.pos
        local kind, buf, pos, last = receive(reader, self._message_max)
        local kept = reader.keep
        reader.keep = false
        if not kind then
            if buf ~= "timeout" then
                return lost(self, buf)
            end
            reader.pos = kept
            return nil, buf
        elseif kind == FAILURE then
            return failed(self, buf, pos, last)
        elseif not is_aside(self, kind, buf, pos, last) then
            return lost(self, "unexpected message")
        end
        notification = take_notification(self)
    end
    return notification
end

-- Logging in ------------------------------------------------------------------------------------

local function send_password(self, text)
    return send(self, message("p", text .. "\0"))
end

local function md5_password(self, salt)
    return "md5" .. ngx.md5(ngx.md5(self._password .. self._user) .. salt)
end

local function start_sasl(self, mechanisms)
    if not mechanisms:find(scram.MECHANISM .. "\0", 1, true) then
        return nil, "no SASL mechanism in common"
    end
    local state, first = scram.first()
    if not state then
        return nil, first
    end
    self._scram = state
    return send(self, message("p", scram.MECHANISM .. "\0" .. wire.int32(#first) .. first))
end

local method_of = { [0] = "none", [3] = "password", [5] = "md5", [10] = "scram-sha-256" }

-- Answers one request for proof: true to go on, "done" when the server is content.
local function prove(self, code, data)
    local wanted = self._require_auth
    local method = method_of[code]
    if wanted and method and method ~= wanted and not (code == 0 and self._proved) then
        return nil, "the server asks for authentication " .. method .. ", not " .. wanted
    end
    if code == 0 then
        if self._scram and not self._scram.verified then
            return nil, "the server did not prove that it knows the password"
        end
        return "done"
    end
    self._proved = true
    if code == 3 then
        return send_password(self, self._password)
    elseif code == 5 then
        return send_password(self, md5_password(self, sub(data, 1, 4)))
    elseif code == 10 then
        return start_sasl(self, data)
    elseif code == 11 and self._scram then
        local final, err = scram.final(self._scram, self._password, data)
        if not final then
            return nil, err
        end
        return send(self, message("p", final))
    elseif code == 12 and self._scram then
        if not scram.verify(self._scram, data) then
            return nil, "the server did not prove that it knows the password"
        end
        self._scram.verified = true
        return true
    end
    return nil, "unsupported authentication method: " .. code
end

local function authenticate(self)
    for _ = 1, AUTH_ROUNDS_MAX do
        local kind, buf, pos, last = next_message(self)
        if not kind then
            return nil, buf
        elseif kind == FAILURE then
            local _, err, report = failed(self, buf, pos, last)
            lost(self)
            return nil, err, report
        elseif kind ~= AUTHENTICATION or last < pos + 3 then
            return lost(self, "unexpected message during login")
        end
        local ok, err = prove(self, wire.number32(buf, pos), sub(buf, pos + 4, last))
        if not ok then
            return lost(self, err)
        elseif ok == "done" then
            return true
        end
    end
    return lost(self, "too many messages during login")
end

local function keep_cancel_key(self)
    if cancel_keys_count >= CANCEL_KEYS_MAX then
        cancel_keys, cancel_keys_count = {}, 0
    end
    local name = self._address .. "/" .. wire.number32(self._cancel_key, 1)
    if not cancel_keys[name] then
        cancel_keys_count = cancel_keys_count + 1
    end
    cancel_keys[name] = self._cancel_key
end

-- From the server's consent to its first "ready".
local function read_session(self)
    while true do
        local kind, buf, pos, last = next_message(self)
        if not kind then
            return nil, buf
        elseif kind == READY then
            became_ready(self, buf, pos)
            return true
        elseif kind == BACKEND_KEY and last >= pos + 7 then
            self._cancel_key = sub(buf, pos, last)
            keep_cancel_key(self)
        elseif kind == FAILURE then
            return failed(self, buf, pos, last)
        end
    end
end

local function start_tls(self, sock, options)
    local bytes, err = sock:send(wire.SSL_REQUEST)
    if not bytes then
        return nil, err
    end
    -- One byte and no more: what follows it is not for us to read before the handshake.
    local answer
    answer, err = sock:receive(1)
    if not answer then
        return nil, err
    end
    if answer ~= "S" then
        return nil, "the server does not support SSL connections"
    end
    local ok
    ok, err = sock:sslhandshake(false, options.server_name or options.host, options.ssl_verify)
    if not ok then
        return nil, "failed to do ssl handshake: " .. (err or "")
    end
    return true
end

local function log_in(self, options)
    if self._tls then
        local ok, err = start_tls(self, self.sock, options)
        if not ok then
            return lost(self, err)
        end
    end
    local list = { "user", self._user, "database", options.database or self._user,
                   "client_encoding", "UTF8" }
    for name, value in pairs(options.parameters or {}) do
        list[#list + 1] = name
        list[#list + 1] = tostring(value)
    end
    if options.application_name then
        list[#list + 1] = "application_name"
        list[#list + 1] = options.application_name
    end
    local ok, err, report = send(self, wire.startup(list))
    if ok then
        ok, err, report = authenticate(self)
    end
    if ok then
        ok, err, report = read_session(self)
    end
    self._scram = nil
    return ok, err, report
end

-- Connecting ------------------------------------------------------------------------------------

function _M.new(_)
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    return setmetatable({
        sock = sock, _in = reader_of.new(sock), _pipeline = false, _refused = false,
        _notifications = { first = 1, last = 0 }, notifications_lost = 0, parameters = {},
        _decoders = types.decoders, _message_max = MESSAGE_BYTES_MAX,
    }, mt)
end

local function dial(self, sock, pool_options)
    local options = self._options
    local ok, err
    if options.host then
        ok, err = sock:connect(options.host, options.port or 5432, pool_options)
    else
        ok, err = sock:connect("unix:" .. options.path, pool_options)
    end
    if not ok then
        return nil, "failed to connect: " .. err
    end
    return true
end

-- A session from the pool: all that was said at its start is unknown but the process number, which
-- it can tell.
local function resume_session(self, options)
    self.state, self.transaction = "ready", "I"
    if not options.cancellable then
        return 1
    end
    local rows, err, report = _M.query(self, "select pg_backend_pid() as pid")
    if not rows then
        return nil, err, report
    end
    local row = rows[1]
    self._cancel_key = cancel_keys[self._address .. "/" .. (row.pid or row[1])]
    return 1
end

local function pool_name(self, options)
    local security = "plain"
    if self._tls then
        security = options.ssl_verify and "ssl-verified" or "ssl"
    end
    return concat({ "postgres", self._user, options.database or self._user, self._address,
                    security }, ":")
end

function _M.connect(self, options)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    if not options.host and not options.path then
        return nil, 'neither "host" nor "path" options are specified'
    end
    self._options, self.state, self._cancel_key = options, nil, nil
    self._user, self._password = options.user or "postgres", options.password or ""
    self._tls = options.ssl or options.ssl_verify
    self._require_auth, self._proved = options.require_auth, false
    self._address = options.host and options.host .. ":" .. (options.port or 5432) or options.path
    self._message_max = options.max_message_size or MESSAGE_BYTES_MAX
    self.compact, self._pipeline = options.compact_arrays, false
    reader_of.reset(self._in)

    local ok, err, report = dial(self, sock, {
        pool = options.pool or pool_name(self, options), pool_size = options.pool_size,
        backlog = options.backlog })
    if not ok then
        return nil, err
    end
    local reused = sock:getreusedtimes()
    if reused and reused > 0 then
        return resume_session(self, options)
    end
    ok, err, report = log_in(self, options)
    if not ok then
        return nil, err, report
    end
    return 1
end

-- Asks the server to stop what it does for this session; for another light thread to call.
function _M.cancel(self)
    if not self._cancel_key then
        return nil, "no cancel key: connect with cancellable = true"
    end
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    if self._timeouts then
        sock:settimeouts(unpack(self._timeouts, 1, 3))
    end
    local ok
    ok, err = dial(self, sock, { pool = "postgres cancel" })
    if ok and self._tls then
        ok, err = start_tls(self, sock, self._options)
    end
    if ok then
        ok, err = sock:send(wire.cancel_request(self._cancel_key))
    end
    if ok then
        -- The server closes when it has passed the request on.
        sock:receiveany(1)
    end
    sock:close()
    return ok and 1 or nil, err
end

function _M.set_timeouts(self, connect_timeout, send_timeout, read_timeout)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    self._timeouts = { connect_timeout, send_timeout, read_timeout }
    return sock:settimeouts(connect_timeout, send_timeout, read_timeout)
end

function _M.set_timeout(self, timeout)
    return _M.set_timeouts(self, timeout, timeout, timeout)
end

function _M.set_keepalive(self, ...)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    local state = self.state
    if state == "ready" and self.transaction ~= "I" then
        state = "in a transaction"
    elseif state == "ready" and reader_of.pending(self._in) then
        state = "unread data"
    end
    if state ~= "ready" then
        return nil, "cannot be reused in the current connection state: "
                    .. (state or "not connected")
    end
    self.state = nil
    return sock:setkeepalive(...)
end

function _M.get_reused_times(self)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    return sock:getreusedtimes()
end

function _M.close(self)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    if self.state == "ready" then
        sock:send(wire.TERMINATE)
    end
    self.state = nil
    return sock:close()
end

-- Another conversion for a type of this connection's results, by its number; false leaves text.
function _M.set_decoder(self, oid, decode)
    if decode and type(decode) ~= "function" then
        error("bad argument #2 decode: function or false expected, got " .. type(decode), 2)
    end
    if self._decoders == types.decoders then
        self._decoders = setmetatable({}, { __index = types.decoders })
    end
    self._decoders[oid] = decode
end

function _M.server_version(self)
    return self.parameters.server_version
end

return _M
