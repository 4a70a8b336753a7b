-- MySQL's connection phase: greeting, TLS, and as many messages as the authentication plugin wants.
-- What to answer is mysql/auth.lua's. For resty.mysql, whose connection object `self` is.

local bit = require "bit"
local auth = require "resty.mysql.auth"
local packets = require "resty.mysql.packets"

local band, bor = bit.band, bit.bor
local byte, char, find, sub = string.byte, string.char, string.find, string.sub
local concat, min = table.concat, math.min
local broken, number2, number_bytes = packets.broken, packets.number2, packets.number_bytes
local parse_error, receive_packet = packets.parse_error, packets.receive
local send_packet = packets.send

-- long password, found rows, long flag, connect with db, ODBC, ignore space, protocol 4.1,
-- interactive, ignore SIGPIPE, transactions, reserved, secure connection, multi statements and
-- results, plugin auth. Not local files: no server shall ask for one.
local CLIENT_FLAGS = bor(0x3f74f, 0x80000)
local CLIENT_SSL, CLIENT_PLUGIN_AUTH, CLIENT_LENENC_AUTH = 0x800, 0x80000, 0x200000

local PROTOCOL_MIN = 10
local AUTH_ROUNDS_MAX = 8

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

-- true, or nil, an error, and the number and state of an error packet.
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

return log_in
