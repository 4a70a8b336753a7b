-- resty.mysql: a client for MySQL's and MariaDB's text protocol on cosockets. Packets are taken
-- apart where they lie in the reader's buffer. How to prove who one is: mysql/auth.lua. The
-- manual is mysql.md.

local bit = require "bit"
local new_tab = require "table.new"
local reader_of = require "resty.reader"
local auth = require "resty.mysql.auth"

local band, bor, lshift, rshift = bit.band, bit.bor, bit.lshift, bit.rshift
local byte, char, find, sub = string.byte, string.char, string.find, string.sub
local concat, min = table.concat, math.min
local setmetatable, tonumber = setmetatable, tonumber
local need = reader_of.need
local null = ngx.null
local tcp = ngx.socket.tcp

local _M = { _VERSION = "0.29" }
local mt = { __index = _M }

-- The numbers are shown in error messages.
local CONNECTED, COMMAND_SENT = 1, 2

local COM_QUIT, COM_QUERY = "\1", "\3"

-- long password, found rows, long flag, connect with db, ODBC, ignore space, protocol 4.1,
-- interactive, ignore SIGPIPE, transactions, reserved, secure connection, multi statements and
-- results, plugin auth. Not local files: no server shall ask for one.
local CLIENT_FLAGS = bor(0x3f74f, 0x80000)
local CLIENT_SSL, CLIENT_PLUGIN_AUTH, CLIENT_LENENC_AUTH = 0x800, 0x80000, 0x200000
local MORE_RESULTS = 8

local PROTOCOL_MIN = 10
-- The longest payload of one packet; what is longer continues in the next.
local PAYLOAD_MAX = 0xffffff
local AUTH_ROUNDS_MAX = 8
local COLUMNS_ROOM_MAX = 4096

-- The default collation of each character set.
local charsets = {
    big5 = 1, dec8 = 3, cp850 = 4, hp8 = 6, koi8r = 7, latin1 = 8, latin2 = 9, swe7 = 10,
    ascii = 11, ujis = 12, sjis = 13, hebrew = 16, tis620 = 18, euckr = 19, koi8u = 22,
    gb2312 = 24, greek = 25, cp1250 = 26, gbk = 28, latin5 = 30, armscii8 = 32, utf8 = 33,
    ucs2 = 35, cp866 = 36, keybcs2 = 37, macce = 38, macroman = 39, cp852 = 40, latin7 = 41,
    utf8mb4 = 45, cp1251 = 51, utf16 = 54, utf16le = 56, cp1256 = 57, cp1257 = 59, utf32 = 60,
    binary = 63, geostd8 = 92, cp932 = 95, eucjpms = 97, gb18030 = 248,
}

-- Column types that become numbers: decimals, integers up to 32 bits, floats and years. A bigint
-- stays a string: a Lua number cannot hold every one.
local is_number = {
    [0x00] = true, [0x01] = true, [0x02] = true, [0x03] = true, [0x04] = true, [0x05] = true,
    [0x09] = true, [0x0d] = true, [0xf6] = true,
}

-- Packets ---------------------------------------------------------------------------------------

local function number_bytes(n, bytes)
    if bytes == 2 then
        return char(band(n, 255), band(rshift(n, 8), 255))
    elseif bytes == 3 then
        return char(band(n, 255), band(rshift(n, 8), 255), band(rshift(n, 16), 255))
    end
    return char(band(n, 255), band(rshift(n, 8), 255), band(rshift(n, 16), 255), rshift(n, 24))
end

-- The stream can no longer be followed: nobody may use this connection again.
local function broken(self, err)
    self.sock:close()
    return nil, err
end

local function receive_failed(self, what, err)
    if err == "timeout" then
        self.sock:close()
    end
    return nil, what .. err
end

-- A packet with every payload full continues in the next one.
local function join_payloads(self, reader, from, size)
    local parts, total, n = { sub(reader.buf, from, from + size - 1) }, size, 1
    while size == PAYLOAD_MAX do
        local ok, err = need(reader, 4)
        if not ok then
            return receive_failed(self, "failed to receive packet header: ", err)
        end
        local low, middle, high, number = byte(reader.buf, reader.pos, reader.pos + 3)
        self.packet_no = number
        size = low + middle * 256 + high * 65536
        reader.pos = reader.pos + 4
        total = total + size
        if total > self._max_packet_size then
            return broken(self, "packet size too big: " .. total)
        end
        ok, err = need(reader, size)
        if not ok then
            return receive_failed(self, "failed to read packet content: ", err)
        end
        n = n + 1
        parts[n] = sub(reader.buf, reader.pos, reader.pos + size - 1)
        reader.pos = reader.pos + size
    end
    return concat(parts), 1, total
end

-- The next packet: the string that it is part of, where it begins and ends, and its first byte. nil
-- and an error else.
local function receive_packet(self)
    local reader = self._in
    local ok, err = need(reader, 4)
    if not ok then
        return receive_failed(self, "failed to receive packet header: ", err)
    end
    local pos = reader.pos
    local low, middle, high, number = byte(reader.buf, pos, pos + 3)
    local size = low + middle * 256 + high * 65536
    if size == 0 then
        return broken(self, "empty packet")
    end
    if size > self._max_packet_size then
        return broken(self, "packet size too big: " .. size)
    end
    reader.pos = pos + 4
    ok, err = need(reader, size)
    if not ok then
        return receive_failed(self, "failed to read packet content: ", err)
    end
    self.packet_no = number
    local buf
    buf, pos = reader.buf, reader.pos
    reader.pos = pos + size
    if size == PAYLOAD_MAX then
        buf, pos, size = join_payloads(self, reader, pos, size)
        if not buf then
            return nil, pos
        end
    end
    return buf, pos, pos + size - 1, byte(buf, pos)
end

local function send_packet(self, payload)
    local sock = self.sock
    local number, size = self.packet_no, #payload
    local pieces, n, from = {}, 0, 1
    repeat
        local left = size - from + 1
        local part = min(left, PAYLOAD_MAX)
        number = band(number + 1, 255)
        pieces[n + 1] = number_bytes(part, 3) .. char(number)
        pieces[n + 2] = part == size and payload or sub(payload, from, from + part - 1)
        n, from = n + 2, from + part
    until part < PAYLOAD_MAX
    self.packet_no = number
    local bytes, err = sock:send(pieces)
    if not bytes and err == "timeout" then
        sock:close()
    end
    return bytes, err
end

-- Values ----------------------------------------------------------------------------------------

-- A number of 2 bytes; 0 where the packet ends.
local function number2(buf, pos)
    local low, high = byte(buf, pos, pos + 1)
    return (low or 0) + (high or 0) * 256
end

-- A length-encoded number and the position after it; null for NULL, nil where the packet is bad.
local function lenenc(buf, pos, last)
    local first, a, b, c, d, e, f, g, h = byte(buf, pos, min(pos + 8, last))
    if not first or first == 255 then
        return nil, pos
    elseif first <= 250 then
        return first, pos + 1
    elseif first == 251 then
        return null, pos + 1
    elseif first == 252 then
        return b and a + b * 256, pos + 3
    elseif first == 253 then
        return c and a + b * 256 + c * 65536, pos + 4
    end
    return h and a + b * 256 + c * 65536 + d * 16777216
           + (e + f * 256 + g * 65536 + h * 16777216) * 4294967296, pos + 9
end

-- A length-encoded string likewise.
local function lenenc_string(buf, pos, last)
    local size
    size, pos = lenenc(buf, pos, last)
    if not size or size == null then
        return size, pos
    end
    if size > last - pos + 1 then
        return nil, pos
    end
    return sub(buf, pos, pos + size - 1), pos + size
end

local function parse_ok(buf, pos, last)
    local result = new_tab(0, 5)
    result.affected_rows, pos = lenenc(buf, pos + 1, last)
    result.insert_id, pos = lenenc(buf, pos, last)
    if not result.affected_rows or not result.insert_id then
        return nil
    end
    result.server_status = number2(buf, pos)
    result.warning_count = number2(buf, pos + 2)
    local message = lenenc_string(buf, pos + 4, last)
    if message and message ~= null then
        result.message = message
    end
    return result
end

-- What an error packet says: message, number, SQL state.
local function parse_error(buf, pos, last)
    local number, state = number2(buf, pos + 1), nil
    pos = pos + 3
    if byte(buf, pos) == 35 then
        state = sub(buf, pos + 1, pos + 5)
        pos = pos + 6
    end
    return sub(buf, pos, last), number, state
end

-- Results ---------------------------------------------------------------------------------------

-- Names and conversions of the columns that are to come, and the packet after them.
local function read_columns(self, count)
    local room = min(count, COLUMNS_ROOM_MAX)
    local names, numeric = new_tab(room, 0), new_tab(room, 0)
    for i = 1, count do
        local buf, pos, last, first = receive_packet(self)
        if not buf then
            return nil, pos
        end
        if first == 0xff then
            self.state = CONNECTED
            return nil, parse_error(buf, pos, last)
        end
        local name, kind, _
        for _ = 1, 4 do -- catalog, database, table, original table
            _, pos = lenenc_string(buf, pos, last)
        end
        name, pos = lenenc_string(buf, pos, last)
        _, pos = lenenc_string(buf, pos, last)
        -- A length, the character set in 2 bytes, the width in 4
        kind = byte(buf, pos + 7)
        if not name or pos + 7 > last then
            return broken(self, "bad field packet")
        end
        names[i], numeric[i] = name, is_number[kind] or false
    end
    local buf, err, _, first = receive_packet(self)
    if not buf then
        return nil, err
    end
    if first ~= 0xfe then
        return broken(self, "unexpected packet type " .. first .. " while eof packet is expected")
    end
    return names, numeric
end

local function parse_row(buf, pos, last, names, numeric, compact)
    local count = #names
    local row = compact and new_tab(count, 0) or new_tab(0, count)
    for i = 1, count do
        local size, value = byte(buf, pos), null
        if not size or pos > last then
            return nil
        end
        if size == 251 then
            pos = pos + 1
        else
            if size < 251 then
                pos = pos + 1
            else
                size, pos = lenenc(buf, pos, last)
            end
            if not size or pos + size - 1 > last then
                return nil
            end
            value = sub(buf, pos, pos + size - 1)
            if numeric[i] then
                value = tonumber(value)
            end
            pos = pos + size
        end
        row[compact and i or names[i]] = value
    end
    return row
end

local function read_rows(self, names, numeric, room)
    local compact = self.compact
    local rows, n = new_tab(room or 4, 0), 0
    while true do
        local buf, pos, last, first = receive_packet(self)
        if not buf then
            return nil, pos
        end
        if first == 0xfe and last - pos < 8 then
            if band(number2(buf, pos + 3), MORE_RESULTS) ~= 0 then
                return rows, "again"
            end
            self.state = CONNECTED
            return rows
        end
        if first == 0xff then
            self.state = CONNECTED
            return nil, parse_error(buf, pos, last)
        end
        local row = parse_row(buf, pos, last, names, numeric, compact)
        if not row then
            return broken(self, "bad row packet")
        end
        n = n + 1
        rows[n] = row
    end
end

-- LOAD DATA LOCAL: the server gets no file, but the end of one, and its answer is read.
local function refuse_file(self)
    local sock = self.sock
    local bytes, err = sock:send(number_bytes(0, 3) .. char(band(self.packet_no + 1, 255)))
    if not bytes then
        return nil, err
    end
    local buf, why = receive_packet(self)
    if not buf then
        return nil, why
    end
    self.state = CONNECTED
    return nil, "packet type LOCALINFILE not supported"
end

function _M.read_result(self, room)
    if self.state ~= COMMAND_SENT then
        return nil, "cannot read result in the current context: " .. (self.state or "nil")
    end
    if not self.sock then
        return nil, "not initialized"
    end
    local buf, pos, last, first = receive_packet(self)
    if not buf then
        return nil, pos
    end
    if first == 0xff then
        self.state = CONNECTED
        return nil, parse_error(buf, pos, last)
    end
    if first == 0 then
        local result = parse_ok(buf, pos, last)
        if not result then
            return broken(self, "malformed packet")
        end
        if band(result.server_status, MORE_RESULTS) ~= 0 then
            return result, "again"
        end
        self.state = CONNECTED
        return result
    end
    if first == 0xfb then
        return refuse_file(self)
    end
    local count = lenenc(buf, pos, last)
    if not count then
        return broken(self, "malformed packet")
    end
    local names, numeric, number, state = read_columns(self, count)
    if not names then
        return nil, numeric, number, state
    end
    return read_rows(self, names, numeric, room)
end

function _M.send_query(self, query)
    if self.state ~= CONNECTED then
        return nil, "cannot send query in the current context: " .. (self.state or "nil")
    end
    if not self.sock then
        return nil, "not initialized"
    end
    self.packet_no = -1
    local bytes, err = send_packet(self, COM_QUERY .. query)
    if not bytes then
        return nil, err
    end
    self.state = COMMAND_SENT
    return bytes
end

function _M.query(self, query, room)
    local bytes, err = _M.send_query(self, query)
    if not bytes then
        return nil, "failed to send query: " .. err
    end
    return _M.read_result(self, room)
end

-- Connecting ------------------------------------------------------------------------------------

-- The server's greeting: the plugin it would like and the nonce to prove the password with.
local function read_greeting(self)
    local buf, pos, last, first = receive_packet(self)
    if not buf then
        return nil, pos
    end
    if first == 0xff then
        return nil, parse_error(buf, pos, last)
    end
    if first < PROTOCOL_MIN then
        return broken(self, "unsupported protocol version " .. first .. ", version "
                            .. PROTOCOL_MIN .. " or higher is required")
    end
    self.protocol_ver = first
    local ending = find(buf, "\0", pos, true)
    if not ending or ending > last then
        return broken(self, "bad handshake initialization packet: bad server version")
    end
    self._server_ver = sub(buf, pos + 1, ending - 1)
    pos = ending + 5 -- over the thread's number
    if last < pos + 30 then
        return broken(self, "bad handshake initialization packet: too short")
    end
    local nonce = sub(buf, pos, pos + 7)
    self.capabilities = number2(buf, pos + 9) + number2(buf, pos + 14) * 65536
    self._server_lang, self._server_status = byte(buf, pos + 11), number2(buf, pos + 12)
    -- The rest of the nonce comes after its length and 10 reserved bytes.
    nonce = nonce .. sub(buf, pos + 27, min(pos + 38, last))
    local plugin = "mysql_native_password"
    if band(self.capabilities, CLIENT_PLUGIN_AUTH) ~= 0 then
        ending = find(buf, "\0", pos + 40, true)
        plugin = sub(buf, pos + 40, ending and ending <= last and ending - 1 or last)
    end
    return plugin, nonce
end

local function start_tls(self, head)
    if band(self.capabilities, CLIENT_SSL) == 0 then
        return nil, "ssl disabled on server"
    end
    local bytes, err = send_packet(self, number_bytes(bor(CLIENT_FLAGS, CLIENT_SSL), 4) .. head)
    if not bytes then
        return nil, "failed to send client authentication packet: " .. err
    end
    local ok
    ok, err = self.sock:sslhandshake(false, self._server_name, self.ssl_verify)
    if not ok then
        return nil, "failed to do ssl handshake: " .. (err or "")
    end
    return true
end

local function send_greeting(self, plugin, response)
    local flags = CLIENT_FLAGS
    local size = #response
    local length = char(band(size, 255))
    if size > 250 then
        flags = bor(flags, CLIENT_LENENC_AUTH)
        length = "\252" .. number_bytes(size, 2)
    end
    local head = number_bytes(self._max_packet_size, 4) .. char(self.charset) .. ("\0"):rep(23)
    if self.use_ssl then
        flags = bor(flags, CLIENT_SSL)
        local ok, err = start_tls(self, head)
        if not ok then
            return nil, err
        end
    end
    local bytes, err = send_packet(self, concat({
        number_bytes(flags, 4), head, self.user, "\0", length, response, self.database, "\0",
        plugin, "\0" }))
    if not bytes then
        return nil, "failed to send client authentication packet: " .. err
    end
    return true
end

-- The password itself, where nobody listens or behind the server's public key.
local function send_password(self, nonce, public_key)
    local secret, err = self.password .. "\0", nil
    if public_key then
        secret, err = auth.encrypt_password(self.password, nonce, public_key)
        if not secret then
            return nil, err
        end
    end
    local bytes
    bytes, err = send_packet(self, secret)
    if not bytes then
        return nil, "failed to send client authentication packet: " .. err
    end
    return true
end

-- The server says more, in the course of `plugin`.
local function go_on(self, plugin, nonce, data)
    if plugin == "caching_sha2_password" and data == "\3" then
        return true -- it knew the password: OK follows
    end
    if plugin == "caching_sha2_password" and data == "\4" then
        if self.is_unix or self.use_ssl then
            return send_password(self, nonce)
        end
        if self.public_key then
            return send_password(self, nonce, self.public_key)
        end
        local bytes, err = send_packet(self, "\2")
        if not bytes then
            return nil, "failed to send password request packet: " .. err
        end
        return true
    end
    if plugin == "caching_sha2_password" or plugin == "sha256_password" then
        if find(data, "-----BEGIN", 1, true) then
            self.public_key = data
            return send_password(self, nonce, data)
        end
    end
    return broken(self, "malformed packet")
end

-- The server wants another plugin: its name and nonce.
local function parse_switch(buf, pos, last, nonce)
    if pos == last then
        return "mysql_old_password", nonce
    end
    local ending = find(buf, "\0", pos, true)
    if not ending or ending > last then
        return nil
    end
    return sub(buf, pos + 1, ending - 1), sub(buf, ending + 1, last)
end

-- From our first answer to the server's OK: true, or nil and what an error packet says.
local function authenticate(self, plugin, nonce)
    for _ = 1, AUTH_ROUNDS_MAX do
        local buf, pos, last, first = receive_packet(self)
        if not buf then
            return nil, "failed to receive the result packet: " .. pos
        end
        local ok, err
        if first == 0 then
            return true
        elseif first == 0xff then
            return nil, parse_error(buf, pos, last)
        elseif first == 1 then
            ok, err = go_on(self, plugin, nonce, sub(buf, pos + 1, last))
        elseif first == 0xfe then
            plugin, nonce = parse_switch(buf, pos, last, nonce)
            if not plugin then
                return broken(self, "malformed packet")
            end
            local response
            response, err = auth.respond(plugin, self.password, nonce,
                                         self.is_unix or self.use_ssl)
            if not response then
                return nil, err
            end
            ok, err = send_packet(self, response)
            if not ok then
                err = "failed to send client authentication packet: " .. err
            end
        else
            return broken(self, "bad packet type: " .. first)
        end
        if not ok then
            return nil, err
        end
    end
    return broken(self, "malformed packet")
end

local function log_in(self)
    local plugin, nonce, number, state = read_greeting(self)
    if not plugin then
        return nil, nonce, number, state
    end
    local private = self.is_unix or self.use_ssl
    local response = auth.respond(plugin, self.password, nonce, private)
    if not response then
        -- The server's default need not be the plugin of this user: it will say which one is.
        plugin, response = "mysql_native_password", ""
    end
    local ok, err = send_greeting(self, plugin, response)
    if not ok then
        return nil, err
    end
    return authenticate(self, plugin, nonce)
end

-- Connects the socket, or takes a connection from the pool: true, or nil and an error.
local function dial(self, options)
    local address, port = options.host, options.port or 3306
    self.is_unix = not address
    if address then
        address = address .. ":" .. port
    elseif options.path then
        address = options.path
    else
        return nil, 'neither "host" nor "path" options are specified'
    end
    local pool = options.pool
    if not pool then
        pool = self.user .. ":" .. self.database .. ":" .. address
        if self.use_ssl then
            pool = pool .. (self.ssl_verify and ":ssl:verified" or ":ssl")
        end
    end
    local pool_options = { pool = pool, pool_size = options.pool_size, backlog = options.backlog }
    local ok, err
    if self.is_unix then
        ok, err = self.sock:connect("unix:" .. address, pool_options)
    else
        ok, err = self.sock:connect(options.host, port, pool_options)
    end
    if not ok then
        return nil, "failed to connect: " .. err
    end
    return true
end

-- The object ------------------------------------------------------------------------------------

function _M.new(_)
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    return setmetatable({ sock = sock, _in = reader_of.new(sock), packet_no = -1 }, mt)
end

function _M.set_timeout(self, timeout)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    return sock:settimeout(timeout)
end

function _M.set_timeouts(self, connect_timeout, send_timeout, read_timeout)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    return sock:settimeouts(connect_timeout, send_timeout, read_timeout)
end

function _M.connect(self, options)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    self.charset = options.charset and charsets[options.charset] or 0
    if options.charset and not charsets[options.charset] then
        return nil, "charset '" .. options.charset .. "' is not supported"
    end
    self._max_packet_size = options.max_packet_size or 1024 * 1024
    self.compact = options.compact_arrays
    self.database, self.user = options.database or "", options.user or ""
    self.password = options.password or ""
    self.ssl_verify, self._server_name = options.ssl_verify, options.server_name
    self.use_ssl = options.ssl or options.ssl_verify
    self.state, self.packet_no = nil, -1
    reader_of.reset(self._in)

    local ok, err, number, state = dial(self, options)
    if not ok then
        return nil, err
    end
    local reused = sock:getreusedtimes()
    if not reused or reused == 0 then
        ok, err, number, state = log_in(self)
        if not ok then
            return nil, err, number, state
        end
    end
    self.state = CONNECTED
    return 1
end

function _M.set_keepalive(self, ...)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    if self.state ~= CONNECTED then
        return nil, "cannot be reused in the current connection state: " .. (self.state or "nil")
    end
    if reader_of.pending(self._in) then
        return nil, "unread data in buffer"
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
    self.state, self.packet_no = nil, -1
    local bytes, err = send_packet(self, COM_QUIT)
    if not bytes then
        sock:close()
        return nil, err
    end
    return sock:close()
end

function _M.server_ver(self)
    return self._server_ver
end

function _M.set_compact_arrays(self, value)
    self.compact = value
end

return _M
