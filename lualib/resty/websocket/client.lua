-- The client's side of a WebSocket connection (RFC 6455): connects, does the handshake and then
-- speaks frames; connections may be kept in the cosocket pool.

local client_cert = require "resty.client_cert"
local endpoint = require "resty.websocket.endpoint"

local char, find, lower, match, sub = string.char, string.find, string.lower, string.match,
                                      string.sub
local concat = table.concat
local random = math.random
local re_match = ngx.re.match
local encode_base64 = ngx.encode_base64
local sha1_bin = ngx.sha1_bin
local tcp = ngx.socket.tcp
local assert = assert
local setmetatable = setmetatable
local tonumber = tonumber
local tostring = tostring
local type = type

local _M = { _VERSION = "0.13" }
local mt = { __index = _M }

local payload_max_default = 65536
local response_bytes_max = 65536
local accept_guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

function _M.new(_, opts)
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    local self = endpoint.limits({ sock = sock, frame = {} }, opts, payload_max_default)
    self.send_masked = not (opts and opts.send_unmasked)
    if opts and opts.timeout then
        sock:settimeout(opts.timeout)
    end
    return setmetatable(self, mt)
end

local uri_regex = [[^(wss?)://]]
                  .. [[(?:(unix:[^:\s]+):|(\[[^\]\s]+\]|[^:/?#@\s\[]+)(?::(\d+))?(?![^/?#]))]]
                  .. [[([^\s#]*)(?:#.*)?$]]

-- {tls, addr, port (nil: a Unix socket), path} of a ws:// or wss:// URI.
local function parse_uri(uri)
    local m, err = re_match(uri, uri_regex, "jo")
    if err then
        return nil, "failed to match the uri: " .. err
    end
    if not m then
        return nil, "bad websocket uri"
    end
    local tls = m[1] == "wss"
    local path = m[5] or ""
    if sub(path, 1, 1) ~= "/" then
        path = "/" .. path
    end
    if m[2] then
        return { tls = tls, addr = m[2], path = path }
    end
    return { tls = tls, addr = m[3], port = tonumber(m[4]) or (tls and 443 or 80), path = path }
end

local function optional_string(value, what)
    if value ~= nil and type(value) ~= "string" then
        return what .. " must be a string"
    end
end

local function check_options(opts)
    if opts.client_cert then
        assert(opts.client_priv_key, "client_priv_key must be provided with client_cert")
    end
    if opts.headers and type(opts.headers) ~= "table" then
        return "custom headers must be a table"
    end
    return optional_string(opts.server_name, "SSL server_name")
           or optional_string(opts.host, "custom host header")
           or optional_string(opts.key, "custom Sec-WebSocket-Key")
end

-- Without a name of its own, a pool holds what is alike: TLS connections are told apart by the
-- name they were made for, by whether it was verified and by the certificate shown.
local function pool_name(target, opts)
    if opts.pool then
        return opts.pool
    end
    local name = target.port and target.addr .. ":" .. target.port or target.addr
    if not target.tls then
        return name
    end
    local identity, err = "", nil
    if opts.client_cert then
        identity, err = client_cert.identity(opts.client_cert, opts.client_priv_key, "client_")
        if not identity then
            return nil, "failed to set TLS client certificate: " .. err
        end
    end
    return concat({ name, "wss", opts.server_name or opts.host or target.addr,
                    tostring(opts.ssl_verify), identity }, ":")
end

local function connect_socket(sock, target, opts)
    local pool, err = pool_name(target, opts)
    if not pool then
        return nil, err
    end
    local options = { pool = pool, pool_size = opts.pool_size, backlog = opts.backlog }
    local ok
    if target.port then
        ok, err = sock:connect(target.addr, target.port, options)
    else
        ok, err = sock:connect(target.addr, options)
    end
    if not ok then
        return nil, "failed to connect: " .. err
    end
    local reused
    reused, err = sock:getreusedtimes()
    if not reused then
        return nil, "failed to get reused times: " .. tostring(err)
    end
    return reused
end

local function start_tls(sock, target, opts)
    local ok, err
    if opts.client_cert then
        ok, err = sock:setclientcert(opts.client_cert, opts.client_priv_key)
        if not ok then
            return nil, "failed to set TLS client certificate: " .. err
        end
    end
    ok, err = sock:sslhandshake(false, opts.server_name or opts.host or target.addr,
                                opts.ssl_verify)
    if not ok then
        return nil, "ssl handshake failed: " .. err
    end
    return true
end

-- A nonce, not a secret: it only keeps caches from answering.
local function random_key()
    local bytes = {}
    for i = 1, 16 do
        bytes[i] = char(random(256) - 1)
    end
    return encode_base64(concat(bytes))
end

local function request_text(target, opts, key)
    local host = opts.host
                 or (target.port and target.addr .. ":" .. target.port or "unix_sock")
    local protocols = opts.protocols
    if type(protocols) == "table" then
        protocols = concat(protocols, ",")
    end
    return concat({
        "GET ", target.path, " HTTP/1.1\r\nUpgrade: websocket\r\nHost: ", host,
        "\r\nSec-WebSocket-Key: ", key,
        protocols and "\r\nSec-WebSocket-Protocol: " .. protocols or "",
        "\r\nSec-WebSocket-Version: 13",
        opts.origin and "\r\nOrigin: " .. opts.origin or "",
        "\r\nConnection: Upgrade",
        opts.headers and #opts.headers > 0 and "\r\n" .. concat(opts.headers, "\r\n") or "",
        "\r\n\r\n",
    })
end

-- The head of the answer, without its empty line.
local function receive_head(sock)
    local read = sock:receiveuntil("\r\n\r\n")
    local head, err = read(response_bytes_max)
    if not head then
        return nil, "failed to receive response header: " .. err
    end
    if #head == response_bytes_max then
        return nil, "failed to receive response header: too large"
    end
    return head
end

local function header_of(head, name)
    for line in head:gmatch("\r\n([^\r\n]+)") do
        local field, value = match(line, "^([^:%s]+):%s*(.-)%s*$")
        if field and lower(field) == name then
            return value
        end
    end
end

-- What RFC 6455, section 4.1 bids a client check.
local function check_head(head, key)
    local status = match(head, "^HTTP/1%.1 (%d%d%d)")
    if status ~= "101" then
        return "unexpected response status: " .. tostring(status)
    end
    local upgrade, connection = header_of(head, "upgrade"), header_of(head, "connection")
    if not upgrade or lower(upgrade) ~= "websocket" then
        return 'bad "upgrade" response header: ' .. tostring(upgrade)
    end
    if not connection or not find(lower(connection), "upgrade", 1, true) then
        return 'bad "connection" response header: ' .. tostring(connection)
    end
    local accept = header_of(head, "sec-websocket-accept")
    if accept ~= encode_base64(sha1_bin(key .. accept_guid)) then
        return 'bad "sec-websocket-accept" response header: ' .. tostring(accept)
    end
end

local function handshake(sock, target, opts)
    local key = opts.key or random_key()
    local bytes, err = sock:send(request_text(target, opts, key))
    if not bytes then
        return nil, "failed to send the handshake request: " .. err
    end
    local head
    head, err = receive_head(sock)
    if not head then
        return nil, err
    end
    if not find(head, "^%s*HTTP/1%.1%s+") then
        return nil, "bad HTTP response status line: " .. head
    end
    if opts.verify_handshake then
        err = check_head(head, key)
        if err then
            return nil, err, head
        end
    end
    return head
end

local no_options = {}

-- 1, nil and the head of the server's answer ("connection reused" when there was none); or nil and
-- an error.
function _M.connect(self, uri, opts)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    opts = opts or no_options
    local target, err = parse_uri(uri)
    if not target then
        return nil, err
    end
    err = check_options(opts)
    if err then
        return nil, err
    end
    self.fatal, self.closed, self.frame = nil, nil, {}

    local reused
    reused, err = connect_socket(sock, target, opts)
    if not reused then
        return nil, err
    end
    if reused > 0 then
        return 1, nil, "connection reused"
    end
    if target.tls then
        local ok
        ok, err = start_tls(sock, target, opts)
        if not ok then
            sock:close()
            return nil, err
        end
    end
    local head, refused
    head, err, refused = handshake(sock, target, opts)
    if not head then
        sock:close()
        return nil, err, refused
    end
    return 1, nil, head
end

function _M.send_close(self, code, msg)
    local bytes, err = endpoint.send_close(self, code, msg)
    if bytes then
        self.closed = true
    end
    return bytes, err
end

function _M.close(self)
    if self.fatal then
        return nil, "fatal error already happened"
    end
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    if not self.closed then
        local bytes, err = _M.send_close(self)
        if not bytes then
            return nil, "failed to send close frame: " .. err
        end
    end
    return sock:close()
end

function _M.set_keepalive(self, ...)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    return sock:setkeepalive(...)
end

_M.set_timeout = endpoint.set_timeout
_M.recv_frame = endpoint.receiver(false)
_M.send_frame = endpoint.send_frame
_M.send_text = endpoint.sender(0x1)
_M.send_binary = endpoint.sender(0x2)
_M.send_ping = endpoint.sender(0x9)
_M.send_pong = endpoint.sender(0xa)

return _M
