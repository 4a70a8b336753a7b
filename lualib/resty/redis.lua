-- resty.redis: a Redis client on cosockets. Every command is a method of its name, made when it is
-- first used. A request is one string or one flat table for one send(); a short reply is taken
-- apart where it was read. The manual is redis.md.

local new_tab = require "table.new"
local reader_of = require "resty.reader"
local replies = require "resty.redis.reply"
local requests = require "resty.redis.request"
local subscriptions = require "resty.redis.subscriptions"

local byte, sub = string.byte, string.sub
local error, ipairs, pairs, select, type = error, ipairs, pairs, select, type
local rawget, setmetatable, tonumber, unpack = rawget, setmetatable, tonumber, unpack
local tcp = ngx.socket.tcp
local count_arguments, put_command = requests.count_arguments, requests.put_command
local heads_of, length_lines = requests.heads_of, requests.length_lines
local messages, note_subscription = subscriptions.messages, subscriptions.note
local pending = reader_of.pending
local read_value, whole_bulk = replies.read, replies.whole_bulk
local PIECE_BYTES_MAX = reader_of.PIECE_BYTES_MAX

local _M = new_tab(0, 64)
_M._VERSION = "0.32"
local mt = { __index = _M }

-- Reading ---------------------------------------------------------------------------------------

-- Half a request may have been sent: nobody may use this connection again.
local function send_failed(sock, err)
    if err == "timeout" then
        sock:close()
    end
    return nil, err
end

-- Most connections see only replies that need no reader.
local function reader_for(self, sock)
    local reader = self._in
    if not reader then
        reader = reader_of.new(sock)
        self._in = reader
    end
    return reader
end

-- A timeout may be harmless: to a subscriber, who goes on with what had come, and where nothing
-- had come yet and the caller may wait on. Any other one ends the connection.
local function read_reply(self, sock, may_wait)
    local reader = reader_for(self, sock)
    local subscribed = self._subscribed
    reader.keep = subscribed and reader.pos
    local value, err = read_value(reader)
    if value == nil and err == "timeout" then
        if subscribed then
            reader.pos = reader.keep
        elseif not may_wait or pending(reader) then
            return replies.broken(reader, err)
        end
    end
    reader.keep = false
    return value, err
end

-- The reply to a single command, when nothing else is on its way.
local function read_only_reply(self, sock, may_wait)
    local reader = self._in
    if reader and pending(reader) then
        return read_reply(self, sock, may_wait)
    end
    local data, err = sock:receiveany(PIECE_BYTES_MAX)
    if not data then
        if err == "timeout" and not may_wait then
            sock:close()
        end
        return nil, err
    end
    local value = whole_bulk(data)
    if value then
        return value
    end
    reader = reader_for(self, sock)
    reader.buf, reader.pos = data, 1
    return read_reply(self, sock, false)
end

-- Messages and subscriptions ---------------------------------------------------------------------

-- The next reply that answers a command; messages on the way are kept for read_reply().
local function read_answer(self, sock, may_wait)
    local reply, err = read_reply(self, sock, may_wait)
    while self._subscribed and type(reply) == "table" and messages[reply[1]] do
        subscriptions.keep(self, reply)
        reply, err = read_reply(self, sock, may_wait)
    end
    return reply, err
end

-- One confirmation per channel: the reply itself when there is one, else a list of them.
local function read_confirmations(self, sock, expected, first)
    note_subscription(self, first)
    if expected <= 1 then
        return first
    end
    local replies = new_tab(expected, 0)
    replies[1] = first
    for i = 2, expected do
        local reply, err = read_answer(self, sock)
        if not reply then
            return nil, err
        end
        note_subscription(self, reply)
        replies[i] = reply
    end
    return replies
end

-- Writing ---------------------------------------------------------------------------------------

-- Sends a command or, in a pipeline, keeps it: true then, and nothing is to be read.
local function issue(self, sock, heads, ...)
    local n = count_arguments(...)
    local pipeline = self._reqs
    if pipeline then
        self._reqs_end = put_command(pipeline, self._reqs_end, heads, n, ...)
        self._reqs_count = self._reqs_count + 1
        return nil, nil, true
    end
    local bytes, err = sock:send(requests.whole(heads, n, ...))
    if not bytes then
        return send_failed(sock, err)
    end
    return bytes
end

-- A command from anywhere but the quick path below.
local function run(self, heads, may_wait, ...)
    local sock = self._sock
    if not sock then
        return nil, "not initialized"
    end
    local bytes, err, kept = issue(self, sock, heads, ...)
    if kept then
        return
    end
    if not bytes then
        return nil, err
    end
    return read_answer(self, sock, may_wait)
end

-- The method for a command. Most calls have one argument, a string, and no mode to think of.
local function new_method(command, may_wait)
    local own_heads = heads_of[command]
    local head = own_heads[1]
    return function(self, key, ...)
        local prefix = self._module_prefix
        if type(key) == "string" and select("#", ...) == 0 and not prefix and not self._reqs
           and not self._subscribed and #key <= 256
        then
            local sock = self._sock
            if not sock then
                return nil, "not initialized"
            end
            local bytes, err = sock:send(head .. length_lines[#key] .. key .. "\r\n")
            if not bytes then
                return send_failed(sock, err)
            end
            return read_only_reply(self, sock, may_wait)
        end
        if prefix then
            self._module_prefix = false
            return run(self, heads_of[prefix .. "." .. command], may_wait, key, ...)
        end
        return run(self, own_heads, may_wait, key, ...)
    end
end

-- The object -------------------------------------------------------------------------------------

function _M.new(_)
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    -- Every field is there from the start: what is missing would be taken for a command.
    return setmetatable({
        _sock = sock, _in = false,
        _module_prefix = false,
        _reqs = false, _reqs_end = 0, _reqs_count = 0,
        _subscribed = false, _messages = false, _channels = false,
    }, mt)
end

function _M.register_module_prefix(prefix)
    _M[prefix] = function(self)
        self._module_prefix = prefix
        return self
    end
end

function _M.set_timeout(self, timeout)
    local sock = rawget(self, "_sock")
    if not sock then
        error("not initialized", 2)
    end
    sock:settimeout(timeout)
end

function _M.set_timeouts(self, connect_timeout, send_timeout, read_timeout)
    local sock = rawget(self, "_sock")
    if not sock then
        error("not initialized", 2)
    end
    sock:settimeouts(connect_timeout, send_timeout, read_timeout)
end

local function bad_argument(what, wanted, value)
    error("bad argument " .. what .. ": " .. wanted .. " expected, got " .. type(value), 3)
end

-- A pool of encrypted connections is none of plain ones, and the checks made are part of its name.
local function options_of_pool(options, host, port)
    if not options or not options.ssl or options.pool then
        return options
    end
    local address = port and host .. ":" .. port or host
    local verified = options.ssl_verify and ":verified" or ""
    return { pool = address .. ":ssl:" .. (options.server_name or "") .. verified,
             pool_size = options.pool_size, backlog = options.backlog }
end

local function dial(sock, host, port, options)
    if not port then
        options = options_of_pool(options, host, nil)
        if options then
            return sock:connect(host, options)
        end
        return sock:connect(host)
    end
    return sock:connect(host, port, options_of_pool(options, host, port))
end

function _M.connect(self, host, port_or_options, options)
    local sock = rawget(self, "_sock")
    if not sock then
        return nil, "not initialized"
    end
    if type(host) ~= "string" then
        bad_argument("#1 host", "string", host)
    end
    local port
    if sub(host, 1, 5) == "unix:" then
        options = port_or_options
        if options ~= nil and type(options) ~= "table" then
            bad_argument("#2 opts", "nil or table", options)
        end
    else
        port = tonumber(port_or_options)
        if not port then
            bad_argument("#2 port", "number", port_or_options)
        end
        if options ~= nil and type(options) ~= "table" then
            bad_argument("#3 opts", "nil or table", options)
        end
    end
    self._subscribed, self._messages, self._channels = false, false, false
    self._in = false

    local ok, err = dial(sock, host, port, options)
    if not ok then
        return ok, err
    end
    if options and options.ssl then
        ok, err = sock:sslhandshake(false, options.server_name, options.ssl_verify)
        if not ok then
            return ok, "failed to do ssl handshake: " .. err
        end
    end
    return ok, err
end

function _M.set_keepalive(self, ...)
    local sock = rawget(self, "_sock")
    if not sock then
        return nil, "not initialized"
    end
    if self._subscribed then
        return nil, "subscribed state"
    end
    if self._in and pending(self._in) then
        return nil, "unread data in buffer"
    end
    return sock:setkeepalive(...)
end

function _M.get_reused_times(self)
    local sock = rawget(self, "_sock")
    if not sock then
        return nil, "not initialized"
    end
    return sock:getreusedtimes()
end

function _M.close(self)
    local sock = rawget(self, "_sock")
    if not sock then
        return nil, "not initialized"
    end
    return sock:close()
end

-- Pipelines --------------------------------------------------------------------------------------

function _M.init_pipeline(self, n)
    self._reqs = new_tab((n or 4) * 6, 0)
    self._reqs_end, self._reqs_count = 0, 0
end

function _M.cancel_pipeline(self)
    self._reqs = false
end

function _M.commit_pipeline(self)
    local request = self._reqs
    if not request then
        return nil, "no pipeline"
    end
    self._reqs = false
    local sock = rawget(self, "_sock")
    if not sock then
        return nil, "not initialized"
    end
    local bytes, err = sock:send(request)
    if not bytes then
        return send_failed(sock, err)
    end
    local n = self._reqs_count
    local replies = new_tab(n, 0)
    for i = 1, n do
        local reply, why = read_answer(self, sock)
        if reply == nil then
            return nil, why
        end
        replies[i] = reply or { false, why }
    end
    return replies
end

-- Commands that are more than a command -----------------------------------------------------------

local function new_subscribe(command)
    local heads = heads_of[command]
    return function(self, ...)
        self._subscribed = true
        self._channels = self._channels or subscriptions.new_channels()
        local reply, err = run(self, heads, false, ...)
        if not reply then
            return nil, err
        end
        return read_confirmations(self, self._sock, select("#", ...), reply)
    end
end

local function new_unsubscribe(command)
    local heads = heads_of[command]
    return function(self, ...)
        if not self._subscribed then
            return nil, "not subscribed"
        end
        local expected = select("#", ...)
        if expected == 0 then
            expected = subscriptions.count(self._channels[command])
        end
        local reply, err = run(self, heads, false, ...)
        if not reply then
            return nil, err
        end
        return read_confirmations(self, self._sock, expected, reply)
    end
end

for subscribe, unsubscribe in pairs(subscriptions.opposite) do
    _M[subscribe] = new_subscribe(subscribe)
    _M[unsubscribe] = new_unsubscribe(unsubscribe)
end

-- A timeout of ours in these leaves the connection open: the caller may wait on.
for _, command in ipairs({ "blpop", "brpop" }) do
    _M[command] = new_method(command, true)
end

-- A message, or whatever else comes to a subscriber.
function _M.read_reply(self)
    local sock = rawget(self, "_sock")
    if not sock then
        return nil, "not initialized"
    end
    if not self._subscribed then
        return nil, "not subscribed"
    end
    local message = subscriptions.take(self)
    if message then
        return message
    end
    local reply, err = read_reply(self, sock)
    note_subscription(self, reply)
    return reply, err
end

function _M.hmset(self, name, ...)
    local fields = ...
    if select("#", ...) ~= 1 then
        return run(self, heads_of.hmset, false, name, ...)
    end
    if type(fields) ~= "table" then
        error("bad argument #2 to 'hmset' (table expected, got " .. type(fields) .. ")", 2)
    end
    local sock = rawget(self, "_sock")
    if not sock then
        return nil, "not initialized"
    end
    local list = { name }
    local n = 1
    for field, value in pairs(fields) do
        list[n + 1], list[n + 2] = field, value
        n = n + 2
    end
    return run(self, heads_of.hmset, false, unpack(list, 1, n))
end

function _M.array_to_hash(_, array)
    local n = #array
    local hash = new_tab(0, n / 2)
    for i = 1, n, 2 do
        hash[array[i]] = array[i + 1]
    end
    return hash
end

-- Commands need not be declared; programs written when they had to be still call this.
function _M.add_commands(...)
    for _, command in ipairs({ ... }) do
        _M[command] = new_method(command)
    end
end

return setmetatable(_M, { __index = function(module, command)
    if type(command) ~= "string" or byte(command) == 95 then
        return nil
    end
    local method = new_method(command)
    module[command] = method
    return method
end })
