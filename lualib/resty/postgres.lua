-- resty.postgres: a client for PostgreSQL on cosockets: the connection object with its queries,
-- pipelines and notifications. What is below it is in postgres/: login, session, results, copy,
-- wire (messages) and types (values). The manual is postgres.md.

local copy = require "resty.postgres.copy"
local login = require "resty.postgres.login"
local new_tab = require "table.new"
local reader_of = require "resty.reader"
local results = require "resty.postgres.results"
local session = require "resty.postgres.session"
local types = require "resty.postgres.types"
local wire = require "resty.postgres.wire"

local concat = table.concat
local error, select, setmetatable, type, unpack = error, select, setmetatable, type, unpack
local tcp = ngx.socket.tcp
local ask, read_result = results.ask, results.read
local message, receive = wire.message, wire.receive
local failed, is_aside, lost = session.failed, session.is_aside, session.lost
local take_notification = session.take_notification

local _M = {
    _VERSION = "0.1", array = types.array, bytea = types.bytea, json = types.json,
    typed = types.typed, quote_literal = types.quote_literal,
    quote_identifier = types.quote_identifier,
    copy_in = copy.copy_in, copy_out = copy.copy_out,
}
local mt = { __index = _M }

local MESSAGE_BYTES_MAX = 64 * 1024 * 1024

-- Queries ---------------------------------------------------------------------------------------

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

-- Notifications ---------------------------------------------------------------------------------

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
        elseif kind == session.FAILURE then
            return failed(self, buf, pos, last)
        elseif not is_aside(self, kind, buf, pos, last) then
            return lost(self, "unexpected message")
        end
        notification = take_notification(self)
    end
    return notification
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
    self._cancel_key = login.cancel_key_of(self, row.pid or row[1])
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
    ok, err, report = login.log_in(self, options)
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
        ok, err = login.start_tls(self, sock, self._options)
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
