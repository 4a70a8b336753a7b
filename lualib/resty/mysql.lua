-- resty.mysql: a client for MySQL's and MariaDB's text protocol on cosockets: queries, results and
-- the connection object. Rows are taken apart where they lie in the reader's buffer. Packets are
-- mysql/packets.lua's matter, logging in is mysql/login.lua's. The manual is mysql.md.

local bit = require "bit"
local new_tab = require "table.new"
local reader_of = require "resty.reader"
local log_in = require "resty.mysql.login"
local packets = require "resty.mysql.packets"

local band = bit.band
local byte, char, sub = string.byte, string.char, string.sub
local min = math.min
local setmetatable, tonumber = setmetatable, tonumber
local broken, lenenc, lenenc_string = packets.broken, packets.lenenc, packets.lenenc_string
local number2, parse_error = packets.number2, packets.parse_error
local receive_packet, send_packet = packets.receive, packets.send
local null = ngx.null
local tcp = ngx.socket.tcp

local _M = { _VERSION = "0.29" }
local mt = { __index = _M }

-- The numbers are shown in error messages.
local CONNECTED, COMMAND_SENT = 1, 2

local COM_QUIT, COM_QUERY = "\1", "\3"

local MORE_RESULTS = 8

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
    local bytes, err = sock:send(packets.number_bytes(0, 3) .. char(band(self.packet_no + 1, 255)))
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
        local result = packets.parse_ok(buf, pos, last)
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

-- The object ------------------------------------------------------------------------------------

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
