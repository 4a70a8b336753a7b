-- A DNS client: queries over UDP, over TCP when a reply is truncated or wanted so.

local message = require "resty.dns.message"
local random_bytes = require("resty.random").bytes

local udp, tcp = ngx.socket.udp, ngx.socket.tcp
local log, DEBUG = ngx.log, ngx.DEBUG
local byte, find, match, sub = string.byte, string.find, string.match, string.sub
local format, gmatch, gsub, rep = string.format, string.gmatch, string.gsub, string.rep
local concat, insert = table.concat, table.insert
local floor = math.floor
local ipairs, setmetatable, tonumber, type = ipairs, setmetatable, tonumber, type

local TYPE_A, TYPE_PTR = 1, 12
local retrans_default, timeout_ms_default = 5, 2000
local datagram_bytes_max = 4096
local strays_max = 128               -- replies to other queries taken off a socket in one try

local _M = {
    _VERSION = "0.23",
    TYPE_A = TYPE_A, TYPE_NS = 2, TYPE_CNAME = 5, TYPE_SOA = 6, TYPE_PTR = TYPE_PTR, TYPE_MX = 15,
    TYPE_TXT = 16, TYPE_AAAA = 28, TYPE_SRV = 33, TYPE_SPF = 99,
    CLASS_IN = 1,
    SECTION_AN = 1, SECTION_NS = 2, SECTION_AR = 3,
}
local mt = { __index = _M }

local function random16()
    local high, low = byte(random_bytes(2), 1, 2)
    return high * 256 + low
end

local function close_all(sockets)
    for _, socket in ipairs(sockets) do
        socket:close()
    end
end

-- ---- life ----

local function open_sockets(servers, timeout)
    local sockets = {}
    for i, server in ipairs(servers) do
        local socket, err = udp()
        if not socket then
            close_all(sockets)
            return nil, "failed to create udp socket: " .. err
        end
        local ok
        ok, err = socket:setpeername(server[1], server[2])
        if not ok then
            close_all(sockets)
            return nil, "failed to set peer name: " .. err
        end
        socket:settimeout(timeout)
        sockets[i] = socket
    end
    return sockets
end

function _M.new(class, options)
    if not options then
        return nil, "no options table specified"
    end
    local given = options.nameservers
    if not given or #given == 0 then
        return nil, "no nameservers specified"
    end
    local servers = {}
    for i, server in ipairs(given) do
        if type(server) == "table" then
            servers[i] = { server[1], server[2] or 53 }
        else
            servers[i] = { server, 53 }
        end
    end
    local timeout = options.timeout or timeout_ms_default
    local sockets, err = open_sockets(servers, timeout)
    if not sockets then
        return nil, err
    end
    local tcp_socket
    tcp_socket, err = tcp()
    if not tcp_socket then
        close_all(sockets)
        return nil, "failed to create tcp socket: " .. err
    end
    tcp_socket:settimeout(timeout)
    return setmetatable({
        cur = options.no_random and 1 or random16() % #servers + 1,   -- who is asked next
        socks = sockets,
        tcp_sock = tcp_socket,
        servers = servers,
        retrans = options.retrans or retrans_default,
        no_recurse = options.no_recurse,
    }, mt)
end

function _M:destroy()
    if self.socks then
        close_all(self.socks)
    end
    if self.tcp_sock then
        self.tcp_sock:close()
    end
    self.cur, self.socks, self.tcp_sock, self.servers = nil, nil, nil, nil
    self.retrans, self.no_recurse = nil, nil
end

function _M:set_timeout(timeout)
    if not self.socks or not self.tcp_sock then
        return nil, "not initialized"
    end
    for _, socket in ipairs(self.socks) do
        socket:settimeout(timeout)
    end
    self.tcp_sock:settimeout(timeout)
end

-- ---- asking ----

local function build(self, name, options)
    local id = self._id or random16()
    local query, err = message.query(id, name, options and options.qtype or TYPE_A,
                                     not self.no_recurse)
    return query, err, id
end

local function exchange_tcp(self, server, query, id, options)
    local socket = self.tcp_sock
    local peer = " TCP server " .. server[1] .. ":" .. server[2] .. ": "
    local ok, err = socket:connect(server[1], server[2])
    if not ok then
        return nil, "failed to connect to" .. peer .. err
    end
    local length = #query
    ok, err = socket:send { string.char(floor(length / 256), length % 256), query }
    if not ok then
        return nil, "failed to send query to" .. peer .. err
    end
    local head
    head, err = socket:receive(2)
    if not head then
        return nil, "failed to receive the reply length field from" .. peer .. err
    end
    local high, low = byte(head, 1, 2)
    local reply
    reply, err = socket:receive(high * 256 + low)
    if not reply then
        return nil, "failed to receive the reply message body from" .. peer .. err
    end
    local answers
    answers, err = message.parse(reply, id, options)
    if not answers then
        return nil, "failed to parse the reply from the" .. peer .. err
    end
    return answers
end

local function query_tcp(self, server, query, id, options)
    if not self.tcp_sock then
        return nil, "not initialized"
    end
    local answers, err = exchange_tcp(self, server, query, id, options)
    self.tcp_sock:close()
    return answers, err
end

-- One try with one server.
local function query_udp(self, at, query, id, options)
    local socket, server = self.socks[at], self.servers[at]
    local ok, err = socket:send(query)
    if not ok then
        return nil, format("failed to send request to UDP server %s:%s: %s", server[1], server[2],
                           err)
    end
    local answers, its_id
    for _ = 1, strays_max do
        local reply
        reply, err = socket:receive(datagram_bytes_max)
        if not reply then
            return nil, format("failed to receive reply from UDP server %s:%s: %s", server[1],
                               server[2], err)
        end
        answers, err, its_id = message.parse(reply, id, options)
        if err == "truncated" then
            log(DEBUG, "query the TCP server due to reply truncation")
            return query_tcp(self, server, query, id, options)
        end
        if err ~= "id mismatch" then
            return answers, err
        end
        log(DEBUG, "id mismatch in the DNS reply: ", its_id, " ~= ", id)
    end
    return nil, err
end

local function next_server(self)
    local at = self.cur
    self.cur = at % #self.servers + 1
    return at
end

function _M:query(name, options, tries)
    if not self.socks then
        return nil, "not initialized"
    end
    local query, err, id = build(self, name, options)
    if not query then
        return nil, err
    end
    if tries then
        tries[1] = nil
    end
    local answers
    for i = 1, self.retrans do
        answers, err = query_udp(self, next_server(self), query, id, options)
        if answers then
            return answers, nil, tries
        end
        if tries then
            tries[i], tries[i + 1] = err, nil
        end
    end
    return nil, err, tries
end

function _M:tcp_query(name, options)
    if not self.socks or not self.tcp_sock then
        return nil, "not initialized"
    end
    local query, err, id = build(self, name, options)
    if not query then
        return nil, err
    end
    return query_tcp(self, self.servers[next_server(self)], query, id, options)
end

-- ---- addresses ----

-- The longest run of zero groups becomes "::".
function _M.compress_ipv6_addr(address)
    local groups = {}
    for group in gmatch(address, "[^:]+") do
        groups[#groups + 1] = group
    end
    if #groups ~= 8 or find(address, "::", 1, true) then
        return address
    end
    local best, best_length, start = nil, 1, nil
    for i = 1, 9 do
        local zero = groups[i] and match(groups[i], "^0+$")
        start = zero and (start or i) or start
        if start and not zero then
            if i - start > best_length then
                best, best_length = start, i - start
            end
            start = nil
        end
    end
    if not best then
        return address
    end
    return concat(groups, ":", 1, best - 1) .. "::" .. concat(groups, ":", best + best_length)
end

-- "::ffff:1.2.3.4": the last four bytes as two groups.
local function plain_groups(address)
    return (gsub(address, "(%d+)%.(%d+)%.(%d+)%.(%d+)$", function(a, b, c, d)
        return format("%x:%x", a * 256 + b, c * 256 + d)
    end))
end

function _M.expand_ipv6_addr(address)
    local at = find(address, "::", 1, true)
    if not at then
        return address
    end
    local groups, tail = {}, {}
    for group in gmatch(sub(address, 1, at - 1), "[^:]+") do
        insert(groups, group)
    end
    for group in gmatch(plain_groups(sub(address, at + 2)), "[^:]+") do
        insert(tail, group)
    end
    for _ = #groups + #tail + 1, 8 do
        insert(groups, "0")
    end
    for _, group in ipairs(tail) do
        insert(groups, group)
    end
    return concat(groups, ":")
end

function _M.arpa_str(address)
    if not find(address, ":", 1, true) then
        return (gsub(address, "^(%d+)%.(%d+)%.(%d+)%.(%d+)$", "%4.%3.%2.%1.in-addr.arpa"))
    end
    local digits = gsub(_M.expand_ipv6_addr(plain_groups(address)), "[^:]+", function(group)
        return rep("0", 4 - #group) .. group
    end)
    return gsub(gsub(digits, ":", ""):reverse(), ".", "%0.") .. "ip6.arpa"
end

function _M:reverse_query(address)
    return self:query(_M.arpa_str(address), { qtype = TYPE_PTR })
end

return _M
