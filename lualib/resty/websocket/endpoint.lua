-- What a WebSocket endpoint does after its handshake, on either side: the methods that send and
-- receive frames. resty.websocket.server and resty.websocket.client take them from here; the
-- object holds `sock`, the limits and `frame` (see protocol.recv_frame).

local protocol = require "resty.websocket.protocol"

local band, rshift = bit.band, bit.rshift
local char, find = string.char, string.find
local log = ngx.log
local DEBUG = ngx.DEBUG
local debugging = ngx.config.debug
local receive_frame = protocol.recv_frame
local send_frame = protocol.send_frame

local _M = {}

-- The limits an options table sets on an object.
function _M.limits(self, opts, payload_max)
    self.max_payload_len = opts and opts.max_payload_len or payload_max
    self.max_recv_len = opts and opts.max_recv_len or self.max_payload_len
    self.max_send_len = opts and opts.max_send_len or self.max_payload_len
    return self
end

function _M.set_timeout(self, ms)
    local sock = self.sock
    if not sock then
        return nil, nil, "not initialized yet"
    end
    return sock:settimeout(ms)
end

-- receiver(must_mask): recv_frame of a side.
function _M.receiver(must_mask)
    return function(self)
        if self.fatal then
            return nil, nil, "fatal error already happened"
        end
        local sock = self.sock
        if not sock then
            return nil, nil, "not initialized yet"
        end
        local data, kind, err = receive_frame(sock, self.max_recv_len, must_mask, self.frame)
        -- A timeout leaves the connection as it was: the next call goes on.
        if not data and not find(err, ": timeout", 1, true) then
            self.fatal = true
        end
        return data, kind, err
    end
end

function _M.send_frame(self, fin, opcode, payload)
    if self.fatal then
        return nil, "fatal error already happened"
    end
    if self.closed then
        return nil, "already closed"
    end
    local sock = self.sock
    if not sock then
        return nil, "not initialized yet"
    end
    local bytes, err = send_frame(sock, fin, opcode, payload, self.max_send_len, self.send_masked)
    -- A frame that was refused here has harmed nobody; one that left in part has.
    if not bytes and find(err, "failed to send frame: ", 1, true) == 1 then
        self.fatal = true
    end
    return bytes, err
end

-- sender(opcode): the method that sends whole frames of one type.
function _M.sender(opcode)
    return function(self, data)
        return _M.send_frame(self, true, opcode, data)
    end
end

function _M.send_close(self, code, msg)
    local payload
    if code then
        if type(code) ~= "number" or code < 0 or code > 0x7fff then
            return nil, "bad status code"
        end
        payload = char(band(rshift(code, 8), 0xff), band(code, 0xff)) .. (msg or "")
    end
    if debugging then
        log(DEBUG, "sending the close frame")
    end
    return _M.send_frame(self, true, 0x8, payload)
end

return _M
