-- resty.redis: a Redis client on cosockets. Every command is a method of its name, made when it is
-- first used. A request is one string or one flat table for one send(); a short reply is taken
-- apart where it was read. The manual is redis.md.

local clear = require "table.clear"
local new_tab = require "table.new"
local reader_of = require "resty.reader"

local byte, sub = string.byte, string.sub
local error, ipairs, pairs, select, type = error, ipairs, pairs, select, type
local rawget, setmetatable, tonumber, tostring = rawget, setmetatable, tonumber, tostring
local concat, min = table.concat, math.min
local null = ngx.null
local tcp = ngx.socket.tcp
local line, need, pending = reader_of.line, reader_of.need, reader_of.pending
local PIECE_BYTES_MAX = reader_of.PIECE_BYTES_MAX

-- What a sane server sends: Redis limits a string to 512 MB; nothing nests replies this deep.
local BULK_BYTES_MAX = 512 * 1024 * 1024
local DEPTH_MAX = 32
-- Longer arguments than this are never copied in Lua.
local SHORT_BYTES_MAX = 1024
-- Requests of up to so many arguments have a table and a ready-made head per command.
local REUSED_ARGUMENTS_MAX = 8
-- Room made for an array before its elements have come.
local ARRAY_ROOM_MAX = 4096

local ARRAY, BULK, INTEGER, STATUS, FAILURE = 42, 36, 58, 43, 45
local MINUS, ZERO, NINE = 45, 48, 57

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

-- The stream can no longer be followed: nobody may use this connection again.
local function broken(reader, err)
    reader.sock:close()
    reader_of.reset(reader)
    return nil, err
end

-- The integer in `buf` between two positions; nil when there is none.
local function number_in(buf, from, to)
    local first, second = byte(buf, from, to)
    if not first or first ~= MINUS and (first < ZERO or first > NINE) then
        return nil
    end
    if from == to then
        return first - ZERO
    end
    if to == from + 1 and first ~= MINUS and second >= ZERO and second <= NINE then
        return (first - ZERO) * 10 + second - ZERO
    end
    return (tonumber(sub(buf, from, to)))
end

local function read_bulk(reader, size)
    if size > BULK_BYTES_MAX then
        return broken(reader, "bulk reply too large: " .. size)
    end
    local ok, err = need(reader, size + 2)
    if not ok then
        return nil, err
    end
    local buf, pos = reader.buf, reader.pos
    if byte(buf, pos + size) ~= 13 then
        return broken(reader, "bulk reply without its line end")
    end
    reader.pos = pos + size + 2
    return sub(buf, pos, pos + size - 1)
end

local read_value

local function read_array(reader, count, depth)
    if depth >= DEPTH_MAX then
        return broken(reader, "reply nested too deep")
    end
    local values = new_tab(min(count, ARRAY_ROOM_MAX), 0)
    for i = 1, count do
        local value, why = read_value(reader, depth + 1)
        if value == nil then
            return nil, why
        end
        values[i] = value or { false, why }
    end
    return values
end

-- The next reply: a value, or false and the server's error, or nil and what went wrong on the way.
read_value = function(reader, depth)
    local from, to = line(reader)
    if not from then
        return nil, to
    end
    local buf = reader.buf
    local kind = from <= to and byte(buf, from) or nil
    if kind == STATUS then
        return sub(buf, from + 1, to)
    end
    if kind == FAILURE then
        return false, sub(buf, from + 1, to)
    end
    if kind ~= BULK and kind ~= INTEGER and kind ~= ARRAY then
        return broken(reader, 'unknown prefix: "' .. tostring(kind) .. '"')
    end
    local number = number_in(buf, from + 1, to)
    if not number then
        local shown = sub(buf, from, min(to, from + 31))
        return broken(reader, 'bad number in reply: "' .. shown .. '"')
    end
    if kind == INTEGER then
        return number
    end
    if number < 0 then
        return null
    end
    if kind == BULK then
        return read_bulk(reader, number)
    end
    return read_array(reader, number, depth)
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
    local value, err = read_value(reader, 0)
    if value == nil and err == "timeout" then
        if subscribed then
            reader.pos = reader.keep
        elseif not may_wait or pending(reader) then
            return broken(reader, err)
        end
    end
    reader.keep = false
    return value, err
end

-- The string when `data` is one short bulk reply and nothing else: what most replies are.
local function whole_bulk(data)
    local kind, first, second, third, fourth = byte(data, 1, 5)
    if kind ~= BULK or not fourth or first < ZERO or first > NINE then
        return nil
    end
    local size, from
    if second == 13 then
        size, from = first - ZERO, 5
    elseif third == 13 then
        size, from = (first - ZERO) * 10 + second - ZERO, 6
    elseif fourth == 13 then
        size, from = (first - ZERO) * 100 + (second - ZERO) * 10 + third - ZERO, 7
    end
    if size and #data == from + size + 1 then
        return sub(data, from, from + size - 1)
    end
    return nil
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

local messages = { message = true, pmessage = true, smessage = true }
local message_of = { unsubscribe = "message", punsubscribe = "pmessage", sunsubscribe = "smessage" }
local opposite = { subscribe = "unsubscribe", psubscribe = "punsubscribe",
                   ssubscribe = "sunsubscribe" }

-- The next reply that answers a command; messages on the way are kept for read_reply().
local function read_answer(self, sock, may_wait)
    local reply, err = read_reply(self, sock, may_wait)
    while self._subscribed and type(reply) == "table" and messages[reply[1]] do
        local kept = self._messages
        if not kept then
            kept = {}
            self._messages = kept
        end
        kept[#kept + 1] = reply
        reply, err = read_reply(self, sock, may_wait)
    end
    return reply, err
end

-- Messages of a channel that was just left are not delivered any more.
local function forget_messages(self, kind, channel)
    local kept = self._messages
    if not kept then
        return
    end
    local left = {}
    for _, message in ipairs(kept) do
        if message[1] ~= kind or message[2] ~= channel then
            left[#left + 1] = message
        end
    end
    self._messages = left[1] ~= nil and left or false
end

-- Keeps the sets of channels in step with what the server confirmed.
local function note_subscription(self, reply)
    if type(reply) ~= "table" then
        return
    end
    local kind, channel = reply[1], reply[2]
    local leaving = opposite[kind]
    if leaving then
        self._channels[leaving][channel] = true
        return
    end
    local kept = message_of[kind]
    if kept then
        if channel ~= nil then
            self._channels[kind][channel] = nil
            forget_messages(self, kept, channel)
        end
        if reply[3] == 0 then
            self._subscribed = false
        end
    end
end

local function count(set)
    local n = 0
    for _ in pairs(set) do
        n = n + 1
    end
    return n
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

-- What stands between two arguments: a line end and the length of the second one.
local length_lines = new_tab(256, 1)
for length = 0, 256 do
    length_lines[length] = "\r\n$" .. length .. "\r\n"
end

-- By a request's number of arguments: a table all of whose elements every such request sets.
local request_tables = new_tab(REUSED_ARGUMENTS_MAX, 1)
for n = 0, REUSED_ARGUMENTS_MAX do
    request_tables[n] = new_tab(2 * n + 2, 0)
end

-- A command's heads by number of arguments: the count, and the command's own length and name.
local function new_heads(command)
    local heads = new_tab(REUSED_ARGUMENTS_MAX, 2)
    heads.name = "\r\n$" .. #command .. "\r\n" .. command
    for n = 0, REUSED_ARGUMENTS_MAX do
        heads[n] = "*" .. n + 1 .. heads.name
    end
    return heads
end

local heads_of = setmetatable({}, { __index = function(all, command)
    local heads = new_heads(command)
    all[command] = heads
    return heads
end })

local function put(request, at, value)
    if type(value) ~= "string" then
        value = tostring(value)
    end
    local length = #value
    request[at + 1] = length_lines[length] or "\r\n$" .. length .. "\r\n"
    request[at + 2] = value
    return at + 2
end

local function put_few(request, at, n, a, b, c, d, ...)
    at = put(request, at, a)
    if n == 1 then
        return at
    end
    at = put(request, at, b)
    if n == 2 then
        return at
    end
    at = put(request, at, c)
    if n == 3 then
        return at
    end
    at = put(request, at, d)
    if n == 4 then
        return at
    end
    return put_few(request, at, n - 4, ...)
end

-- Appends a whole command; gives the position of its last string.
local function put_command(request, at, heads, n, ...)
    at = at + 1
    request[at] = heads[n] or "*" .. n + 1 .. heads.name
    if n > REUSED_ARGUMENTS_MAX then
        local arguments = { ... }
        for i = 1, n do
            at = put(request, at, arguments[i])
        end
    elseif n > 0 then
        at = put_few(request, at, n, ...)
    end
    at = at + 1
    request[at] = "\r\n"
    return at
end

-- Nils at the end are no arguments, as they would not be to a table constructor.
local function count_arguments(...)
    local n = select("#", ...)
    while n > 0 and (select(n, ...)) == nil do
        n = n - 1
    end
    return n
end

-- A short request goes out as one string; long values are not copied once more, and not left behind
-- in a table that is used again.
local function send(sock, request, n)
    local large = n > REUSED_ARGUMENTS_MAX
    for i = 3, large and 0 or 2 * n + 1, 2 do
        large = large or #request[i] > SHORT_BYTES_MAX
    end
    local bytes, err = sock:send(large and request or concat(request))
    if large and n <= REUSED_ARGUMENTS_MAX then
        clear(request)
    end
    if not bytes and err == "timeout" then
        sock:close()
    end
    return bytes, err
end

-- Sends a command or, in a pipeline, keeps it: true then, and nothing is to be read.
local function issue(self, sock, heads, ...)
    local n = count_arguments(...)
    local pipeline = self._reqs
    if pipeline then
        self._reqs_end = put_command(pipeline, self._reqs_end, heads, n, ...)
        self._reqs_count = self._reqs_count + 1
        return nil, nil, true
    end
    local request = request_tables[n] or new_tab(2 * n + 2, 0)
    put_command(request, 0, heads, n, ...)
    return send(sock, request, n)
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
        self._channels = self._channels
            or { unsubscribe = {}, punsubscribe = {}, sunsubscribe = {} }
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
            expected = count(self._channels[command])
        end
        local reply, err = run(self, heads, false, ...)
        if not reply then
            return nil, err
        end
        return read_confirmations(self, self._sock, expected, reply)
    end
end

for subscribe, unsubscribe in pairs(opposite) do
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
    local kept = self._messages
    if kept then
        local message = table.remove(kept, 1)
        if kept[1] == nil then
            self._messages = false
        end
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
