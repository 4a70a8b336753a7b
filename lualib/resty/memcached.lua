-- resty.memcached: a client for memcached's text protocol on cosockets. A command is a few strings
-- in one table for one send(), and a reader for its reply; a pipeline collects both. The manual is
-- memcached.md.

local new_tab = require "table.new"
local clear = require "table.clear"

local find, match, sub = string.find, string.match, string.sub
local concat = table.concat
local error, setmetatable, tonumber, type = error, setmetatable, tonumber, type
local tostring = tostring
local escape_uri, unescape_uri = ngx.escape_uri, ngx.unescape_uri
local tcp = ngx.socket.tcp

-- No memcached can be told to take larger items.
local VALUE_BYTES_MAX = 1024 * 1024 * 1024
-- A value up to this size is read together with the line after it and cut, a larger one is not.
local CUT_BYTES_MAX = 1024
local STATS_LINES_MAX = 100000
-- Tables of values inside tables of values.
local DEPTH_MAX = 32

local _M = { _VERSION = "0.17" }
local mt = { __index = _M }

-- Reading: each gives what the command's method returns -------------------------------------------

local function receive(sock, size)
    local data, err = sock:receive(size)
    if not data and err == "timeout" then
        sock:close()
    end
    return data, err
end

local function receive_line(sock)
    local line, err = sock:receive()
    if not line and err == "timeout" then
        sock:close()
    end
    return line, err
end

-- A value of `length` bytes and the `tail` that must follow it.
local function receive_value(sock, length, tail)
    length = tonumber(length)
    if length > VALUE_BYTES_MAX then
        sock:close()
        return nil, "value too large: " .. length
    end
    local data, after, err
    if length <= CUT_BYTES_MAX then
        data, err = receive(sock, length + #tail)
        if not data then
            return nil, err
        end
        data, after = sub(data, 1, length), sub(data, length + 1)
    else
        data, err = receive(sock, length)
        if not data then
            return nil, err
        end
        after, err = receive(sock, #tail)
        if not after then
            return nil, err
        end
    end
    if after ~= tail then
        sock:close()
        return nil, "malformed reply"
    end
    return data
end

local function read_get(sock)
    local line, err = receive_line(sock)
    if not line then
        return nil, nil, err
    end
    if line == "END" then
        return nil, nil, nil
    end
    local flags, length = match(line, "^VALUE %S+ (%d+) (%d+)$")
    if not flags then
        return nil, nil, line
    end
    local data
    data, err = receive_value(sock, length, "\r\nEND\r\n")
    if not data then
        return nil, nil, err
    end
    return data, flags
end

local function read_gets(sock)
    local line, err = receive_line(sock)
    if not line then
        return nil, nil, nil, err
    end
    if line == "END" then
        return nil, nil, nil, nil
    end
    local flags, length, unique = match(line, "^VALUE %S+ (%d+) (%d+) (%d+)$")
    if not flags then
        return nil, nil, nil, line
    end
    local data
    data, err = receive_value(sock, length, "\r\nEND\r\n")
    if not data then
        return nil, nil, nil, err
    end
    return data, flags, unique
end

local function read_many(sock, self, pattern)
    local results = {}
    local unescape = self.unescape_key
    while true do
        local line, err = receive_line(sock)
        if not line then
            return nil, err
        end
        if line == "END" then
            return results
        end
        local key, flags, length, unique = match(line, pattern)
        if not key then
            return nil, line
        end
        local data
        data, err = receive_value(sock, length, "\r\n")
        if not data then
            return nil, err
        end
        results[unescape(key)] = { data, flags, unique }
    end
end

local function read_many_get(sock, self)
    return read_many(sock, self, "^VALUE (%S+) (%d+) (%d+)$")
end

local function read_many_gets(sock, self)
    return read_many(sock, self, "^VALUE (%S+) (%d+) (%d+) (%d+)$")
end

-- A reader of one line that must be `wanted` (or `other`); any other line is the error.
local function expect(wanted, other)
    return function(sock)
        local line, err = receive_line(sock)
        if not line then
            return nil, err
        end
        if line == wanted or line == other then
            return 1
        end
        return nil, line
    end
end

local read_stored = expect("STORED")
local read_deleted = expect("DELETED")
local read_ok = expect("OK")
-- Couchbase's proxy says STORED to a touch.
local read_touched = expect("TOUCHED", "STORED")

local function read_number(sock)
    local line, err = receive_line(sock)
    if not line then
        return nil, err
    end
    -- A decremented value may be padded with blanks, to the length it had before.
    local number = match(line, "^(%d+) *$")
    if not number then
        return nil, line
    end
    return number
end

local function read_stats(sock)
    local lines = {}
    for n = 1, STATS_LINES_MAX do
        local line, err = receive_line(sock)
        if not line then
            return nil, err
        end
        if line == "END" or line == "RESET" then
            return lines
        end
        if find(line, "ERROR", 1, true) then
            return nil, line
        end
        lines[n] = line
    end
    sock:close()
    return nil, "too many lines"
end

local function read_version(sock)
    local line, err = receive_line(sock)
    if not line then
        return nil, err
    end
    local version = match(line, "^VERSION (.+)$")
    if not version then
        return nil, line
    end
    return version
end

local function read_nothing()
    return 1
end

-- Writing ---------------------------------------------------------------------------------------

-- The pieces of the request being made; send() has copied them when another request may run.
local pieces = new_tab(16, 0)

-- The table that takes the next request, and where in it; nothing when there is no socket.
local function begin(self)
    if not self.sock then
        return nil
    end
    local pipeline = self._reqs
    if pipeline then
        return pipeline, #pipeline
    end
    clear(pieces)
    return pieces, 0
end

-- Sends what begin() gave out and reads the reply, or leaves both to the pipeline. `blank` is the
-- number of nils before an error in what the command returns.
local function finish(self, request, read, blank)
    if self._reqs then
        local readers = self._readers
        readers[#readers + 1] = read
        return 1
    end
    local sock = self.sock
    local bytes, err = sock:send(request)
    if bytes then
        return read(sock, self)
    end
    if err == "timeout" then
        sock:close()
    end
    if blank == 2 then
        return nil, nil, err
    elseif blank == 3 then
        return nil, nil, nil, err
    end
    return nil, err
end

-- A command with a key and up to one more word.
local function key_command(self, command, key, word, read, blank)
    local request, at = begin(self)
    request[at + 1] = command
    request[at + 2] = self.escape_key(key)
    if word ~= nil then
        request[at + 3] = " "
        request[at + 4] = word
        at = at + 2
    end
    request[at + 3] = "\r\n"
    return finish(self, request, read, blank)
end

local function keys_command(self, command, keys, read)
    local n = #keys
    if n == 0 then
        return {}
    end
    local request, at = begin(self)
    if not request then
        return nil, "not initialized"
    end
    local escape = self.escape_key
    request[at + 1] = command
    for i = 1, n do
        request[at + 2 * i] = " "
        request[at + 2 * i + 1] = escape(keys[i])
    end
    request[at + 2 * n + 2] = "\r\n"
    return finish(self, request, read)
end

-- A command without a key.
local function plain_command(self, command, word, read)
    local request, at = begin(self)
    if not request then
        return nil, "not initialized"
    end
    request[at + 1] = command
    if word ~= nil then
        request[at + 2] = " "
        request[at + 3] = word
        at = at + 2
    end
    request[at + 2] = "\r\n"
    return finish(self, request, read)
end

local function flatten(value, list, n, depth)
    if depth > DEPTH_MAX then
        error("value nested too deep", 0)
    end
    for i = 1, #value do
        local part = value[i]
        if type(part) == "table" then
            n = flatten(part, list, n, depth + 1)
        else
            n = n + 1
            list[n] = part
        end
    end
    return n
end

local function text_of(value)
    local kind = type(value)
    if kind == "string" then
        return value
    end
    if kind == "table" then
        local list = {}
        flatten(value, list, 0, 1)
        return concat(list)
    end
    if kind == "number" then
        return tostring(value)
    end
    error("bad value: string, number or table expected, got " .. kind, 0)
end

local function store(self, command, key, value, exptime, flags, unique)
    if not self.sock then
        return nil, "not initialized"
    end
    value = text_of(value)
    local request, at = begin(self)
    request[at + 1] = command
    request[at + 2] = self.escape_key(key)
    request[at + 3] = " "
    request[at + 4] = flags or 0
    request[at + 5] = " "
    request[at + 6] = exptime or 0
    request[at + 7] = " "
    request[at + 8] = #value
    if unique then
        request[at + 9] = " "
        request[at + 10] = unique
        at = at + 2
    end
    request[at + 9] = "\r\n"
    request[at + 10] = value
    request[at + 11] = "\r\n"
    return finish(self, request, read_stored)
end

-- The object -------------------------------------------------------------------------------------

function _M.new(_, options)
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    local escape, unescape = escape_uri, unescape_uri
    local transform = options and options.key_transform
    if transform then
        escape, unescape = transform[1], transform[2]
        if not escape or not unescape then
            return nil, "expecting key_transform = { escape, unescape } table"
        end
    end
    return setmetatable({ sock = sock, escape_key = escape, unescape_key = unescape }, mt)
end

function _M.set_timeouts(self, connect_timeout, send_timeout, read_timeout)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    sock:settimeouts(connect_timeout, send_timeout, read_timeout)
    return 1
end

function _M.set_timeout(self, timeout)
    return _M.set_timeouts(self, timeout, timeout, timeout)
end

-- Methods that are the socket's own.
local function of_socket(name)
    return function(self, ...)
        local sock = self.sock
        if not sock then
            return nil, "not initialized"
        end
        return sock[name](sock, ...)
    end
end

_M.connect = of_socket("connect")
_M.sslhandshake = of_socket("sslhandshake")
_M.set_keepalive = of_socket("setkeepalive")
_M.get_reused_times = of_socket("getreusedtimes")
_M.close = of_socket("close")

-- Commands ---------------------------------------------------------------------------------------

function _M.get(self, key)
    if type(key) == "table" then
        return keys_command(self, "get", key, read_many_get)
    end
    if not self.sock then
        return nil, nil, "not initialized"
    end
    return key_command(self, "get ", key, nil, read_get, 2)
end

function _M.gets(self, key)
    if type(key) == "table" then
        return keys_command(self, "gets", key, read_many_gets)
    end
    if not self.sock then
        return nil, nil, nil, "not initialized"
    end
    return key_command(self, "gets ", key, nil, read_gets, 3)
end

for _, command in ipairs({ "set", "add", "replace", "append", "prepend" }) do
    local words = command .. " "
    _M[command] = function(self, key, value, exptime, flags)
        return store(self, words, key, value, exptime, flags)
    end
end

function _M.cas(self, key, value, unique, exptime, flags)
    return store(self, "cas ", key, value, exptime, flags, unique or "")
end

-- A method for a command with a key and perhaps a word after it.
local function new_key_command(command, read)
    local words = command .. " "
    return function(self, key, word)
        if not self.sock then
            return nil, "not initialized"
        end
        return key_command(self, words, key, word, read)
    end
end

_M.incr = new_key_command("incr", read_number)
_M.decr = new_key_command("decr", read_number)
_M.touch = new_key_command("touch", read_touched)

function _M.delete(self, key)
    if not self.sock then
        return nil, "not initialized"
    end
    return key_command(self, "delete ", key, nil, read_deleted)
end

function _M.flush_all(self, time)
    return plain_command(self, "flush_all", time or nil, read_ok)
end

function _M.stats(self, arguments)
    return plain_command(self, "stats", arguments or nil, read_stats)
end

function _M.version(self)
    return plain_command(self, "version", nil, read_version)
end

function _M.quit(self)
    return plain_command(self, "quit", nil, read_nothing)
end

function _M.verbosity(self, level)
    return plain_command(self, "verbosity", level, read_ok)
end

-- Pipelines --------------------------------------------------------------------------------------

function _M.init_pipeline(self, n)
    if self._reqs then
        return "already init pipeline"
    end
    if n and type(n) ~= "number" then
        return "bad n arg: number expected, but got " .. type(n)
    end
    n = n or 4
    self._reqs, self._readers = new_tab(n * 5, 0), new_tab(n, 0)
    return nil
end

function _M.cancel_pipeline(self)
    self._reqs, self._readers = nil, nil
end

function _M.commit_pipeline(self)
    local request, readers = self._reqs, self._readers
    self._reqs, self._readers = nil, nil
    if not request then
        return nil, "no pipeline"
    end
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    local n = #readers
    if n == 0 then
        return nil, "no more cmds"
    end
    local bytes, err = sock:send(request)
    if not bytes then
        if err == "timeout" then
            sock:close()
        end
        return nil, err
    end
    local results = new_tab(n, 0)
    for i = 1, n do
        results[i] = { readers[i](sock, self) }
    end
    return results
end

return _M
