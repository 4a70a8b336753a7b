-- The server's side of a WebSocket connection (RFC 6455): answers the handshake of the current
-- request and then speaks frames over its raw socket.

local endpoint = require "resty.websocket.endpoint"

local find, lower, match = string.find, string.lower, string.match
local req = ngx.req
local encode_base64 = ngx.encode_base64
local flush = ngx.flush
local send_headers = ngx.send_headers
local sha1_bin = ngx.sha1_bin
local setmetatable = setmetatable
local tostring = tostring
local type = type

local _M = { _VERSION = "0.13" }
local mt = { __index = _M }

local payload_max_default = 65535
local accept_guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

local function first_of(value)
    if type(value) == "table" then
        return value[1]
    end
    return value
end

-- The key and the subprotocol of a good handshake; nil and what is bad in another.
local function check_request()
    local version = req.http_version()
    if version ~= 1.1 then
        return nil, "bad http version"
    end
    local headers = req.get_headers()

    local value = first_of(headers.upgrade)
    if not value or lower(value) ~= "websocket" then
        return nil, 'bad "upgrade" request header: ' .. tostring(value)
    end
    value = first_of(headers.connection)
    if not value or not find(lower(value), "upgrade", 1, true) then
        return nil, 'bad "connection" request header'
    end
    local key = first_of(headers["sec-websocket-key"])
    if not key then
        return nil, 'bad "sec-websocket-key" request header'
    end
    if first_of(headers["sec-websocket-version"]) ~= "13" then
        return nil, 'bad "sec-websocket-version" request header'
    end
    -- One subprotocol is chosen: the client's first.
    local offered = first_of(headers["sec-websocket-protocol"])
    return key, offered and match(offered, "^%s*([^%s,]+)")
end

local function answer(key, subprotocol)
    local header = ngx.header
    header["Upgrade"] = "websocket"
    header["Sec-WebSocket-Accept"] = encode_base64(sha1_bin(key .. accept_guid))
    if subprotocol then
        header["Sec-WebSocket-Protocol"] = subprotocol
    end
    header["Content-Type"] = nil
    ngx.status = 101

    local ok, err = send_headers()
    if not ok then
        return nil, "failed to send response header: " .. (err or "unknown")
    end
    ok, err = flush(true)
    if not ok then
        return nil, "failed to flush response header: " .. (err or "unknown")
    end
    return true
end

function _M.new(_, opts)
    if ngx.headers_sent then
        return nil, "response header already sent"
    end
    req.read_body()
    local key, subprotocol = check_request()
    if not key then
        return nil, subprotocol
    end
    local ok, err = answer(key, subprotocol)
    if not ok then
        return nil, err
    end

    local sock
    sock, err = req.socket(true)
    if not sock then
        return nil, err
    end
    local self = endpoint.limits({ sock = sock, frame = {} }, opts, payload_max_default)
    if opts then
        self.send_masked = opts.send_masked
        if opts.timeout then
            sock:settimeout(opts.timeout)
        end
    end
    return setmetatable(self, mt)
end

_M.set_timeout = endpoint.set_timeout
_M.recv_frame = endpoint.receiver(true)
_M.send_frame = endpoint.send_frame
_M.send_continue = endpoint.sender(0x0)
_M.send_text = endpoint.sender(0x1)
_M.send_binary = endpoint.sender(0x2)
_M.send_close = endpoint.send_close
_M.send_ping = endpoint.sender(0x9)
_M.send_pong = endpoint.sender(0xa)

return _M
