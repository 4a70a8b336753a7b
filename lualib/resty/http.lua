-- HTTP/1.0 and 1.1 client over cosockets: connections, requests, streamed or whole responses,
-- pipelines. http.md beside this file is the manual.

local bodies = require "resty.http.body"
local connect_with = require "resty.http_connect"
local http_headers = require "resty.http_headers"
local lines = require "resty.http.lines"
local message = require "resty.http.message"
local proxy = require "resty.http.proxy"

local concat = table.concat
local find, format, gsub, lower, match, sub, upper =
    string.find, string.format, string.gsub, string.lower, string.match, string.sub, string.upper
local ipairs, pairs, pcall, rawget = ipairs, pairs, pcall, rawget
local setmetatable = setmetatable
local tonumber, tostring, type, unpack = tonumber, tostring, type, unpack
local encode_args = ngx.encode_args
local get_phase = ngx.get_phase
local log = ngx.log
local DEBUG, ERR = ngx.DEBUG, ngx.ERR
local re_match = ngx.re.match
local req = ngx.req
local tcp = ngx.socket.tcp

local _M = { _VERSION = "0.17.2" }
_M._USER_AGENT = "lua-resty-http/" .. _M._VERSION .. " (Lua) ngx_lua/"
                 .. ngx.config.ngx_lua_version
_M.transfer_encoding_is_chunked = message.is_chunked
_M.chunked_body = bodies.framed

local mt = { __index = _M }
local interim_responses_max = 32
local client_chunk_default = 65536
local limited_chunk = 65536
local debugging = false

local expecting_body = { POST = true, PUT = true, PATCH = true }
local idempotent = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true,
                     DELETE = true }
local lost_connection = { ["closed"] = true, ["broken pipe"] = true,
                          ["connection reset by peer"] = true }
local hop_by_hop = {
    ["connection"] = true, ["keep-alive"] = true, ["proxy-authenticate"] = true,
    ["proxy-authorization"] = true, ["te"] = true, ["trailers"] = true, ["trailer"] = true,
    ["transfer-encoding"] = true, ["upgrade"] = true, ["content-length"] = true,
}
-- Fields that frame, route or authorize must not come after the body (RFC 9110, section 6.5.1).
local no_trailer = {
    ["transfer-encoding"] = true, ["content-length"] = true, ["host"] = true, ["trailer"] = true,
    ["content-encoding"] = true, ["content-type"] = true, ["content-range"] = true,
    ["authorization"] = true, ["set-cookie"] = true, ["connection"] = true,
}
-- Where ngx.var can be read.
local request_phases = {
    set = true, rewrite = true, server_rewrite = true, access = true, precontent = true,
    content = true, header_filter = true, body_filter = true, log = true, balancer = true,
}

local function copy(from)
    local to = {}
    for key, value in pairs(from) do
        to[key] = value
    end
    return to
end

function _M.debug(on)
    debugging = on and true or false
end

-- -- Connections

-- `exchange` counts what is owed on a connection: responses, and bodies not read to their end. A
-- new connection gets a new one, so that readers of the old connection cannot harm it.
function _M.new(_)
    local sock, err = tcp()
    if not sock then
        return nil, err
    end
    return setmetatable({ sock = sock, keepalive = true, exchange = { owed = 0 } }, mt)
end

-- Begins a connection's state; used by connect().
function _M.reset(self, host, port, tls)
    self.host, self.port, self.ssl = host, port, tls
    self.keepalive = true
    self.exchange = { owed = 0 }
    self.path_prefix, self.http_proxy_auth = nil, nil
end

-- method(name): the method of that name of the socket, under the client's own.
local function socket_method(name)
    return function(self, ...)
        local sock = self.sock
        if not sock then
            return nil, "not initialized"
        end
        return sock[name](sock, ...)
    end
end

_M.set_timeout = socket_method("settimeout")
_M.set_timeouts = socket_method("settimeouts")
_M.get_reused_times = socket_method("getreusedtimes")
_M.close = socket_method("close")

-- connect(options), or as it used to be: connect(host, port, options?), connect("unix:…", options?)
function _M.connect(self, options, ...)
    if type(options) == "table" then
        return connect_with(self, options)
    end
    return self:tcp_only_connect(options, ...)
end

function _M.tcp_only_connect(self, host, port, ...)
    log(DEBUG, "Use of deprecated `connect` method signature")
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    self:reset(host, type(port) ~= "table" and tonumber(port) or nil, false)
    return sock:connect(host, port, ...)
end

-- 1: kept; 2 and a text: closed, as it must be; nil and an error.
function _M.set_keepalive(self, ...)
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    if self.keepalive == true and self.exchange.owed == 0 then
        return sock:setkeepalive(...)
    end
    local ok, err = sock:close()
    if not ok then
        return ok, err
    end
    return 2, "connection must be closed"
end

function _M.set_proxy_options(self, options)
    self.proxy_opts = copy(options)
end

function _M.get_proxy_uri(self, scheme, host)
    local uri = proxy.choose(self.proxy_opts, scheme, host)
    return uri
end

-- {scheme, host, port, path, query} of an absolute or schemeless URI. The query is part of the
-- path too, unless query_in_path is false.
function _M.parse_uri(_, uri, query_in_path)
    local m, err = re_match(uri, [[^(?:(https?):)?//(\[[0-9a-f:.]+\]|[^\[\]:/?#@\s]+)]]
                                 .. [[(?::(\d+))?(?![^/?#])([^?#]*)(?:\?([^#]*))?]], "ijo")
    if not m then
        if err then
            return nil, "failed to match the uri: " .. uri .. ", " .. err
        end
        return nil, "bad uri: " .. uri
    end
    local scheme = m[1] and lower(m[1])
    if not scheme then
        scheme = request_phases[get_phase()] and ngx.var.scheme
        if not scheme then
            return nil, "schemaless URIs require a request context: " .. uri
        end
    end
    local path, query = m[4], m[5] or ""
    if path == "" or not path then
        path = "/"
    end
    if query_in_path ~= false and query ~= "" then
        path = path .. "?" .. query
    end
    return { scheme, m[2], tonumber(m[3]) or (scheme == "https" and 443 or 80), path, query }
end

-- -- Requests

-- The length of the body, where it is not said. nil and an error where it must be.
local function complete_length(headers, body, method)
    if message.is_chunked(headers) then
        -- Both would invite request smuggling (RFC 9112, section 6.2).
        headers["Content-Length"] = nil
        return true
    end
    if headers["Content-Length"] then
        return true
    end
    if body == nil then
        if expecting_body[method] then
            return nil, format('Request body is nil but %s method expects a body. Use an empty '
                               .. 'string "" if you want to send an empty body.', method)
        end
        return true
    end
    local length = message.body_length(body)
    if not length then
        return nil, "Request body is a function but a length or chunked encoding is not specified"
    end
    headers["Content-Length"] = format("%d", length)
    return true
end

local function complete_host(self, headers)
    if headers["Host"] then
        return true
    end
    local host, port = self.host or "", self.port
    if sub(host, 1, 5) == "unix:" then
        return nil, "Unable to generate a useful Host header for a unix domain socket. "
                    .. "Please provide one."
    end
    if port and port ~= (self.ssl and 443 or 80) then
        host = host .. ":" .. port
    end
    headers["Host"] = host
    return true
end

-- The request's fields with what goes without saying; or nil and an error.
local function complete_headers(self, params, method)
    local headers = http_headers.new()
    for name, value in pairs(params.headers or {}) do
        headers[tostring(name)] = value
    end
    local ok, err = complete_length(headers, params.body, method)
    if not ok then
        return nil, err
    end
    ok, err = complete_host(self, headers)
    if not ok then
        return nil, err
    end
    if not headers["Proxy-Authorization"] then
        headers["Proxy-Authorization"] = self.http_proxy_auth
    end
    if not headers["User-Agent"] then
        headers["User-Agent"] = _M._USER_AGENT
    end
    if params.version == 1.0 and not headers["Connection"] then
        headers["Connection"] = "Keep-Alive"
    end
    -- W3C trace context: what a tracing module put into this request goes on.
    if not headers["traceparent"] and request_phases[get_phase()] then
        headers["traceparent"] = ngx.var.http_traceparent
    end
    return headers
end

local function target_of(self, params)
    local query = params.query or ""
    if type(query) == "table" then
        query = encode_args(query)
    end
    if query ~= "" and sub(query, 1, 1) ~= "?" then
        query = "?" .. query
    end
    return (self.path_prefix or "") .. (params.path or "/") .. query
end

local function send_pieces(sock, next_piece)
    while true do
        local piece, err, partial = next_piece()
        if piece == nil then
            if err ~= nil then
                return nil, err, partial
            end
            return true
        end
        local bytes
        bytes, err = sock:send(piece)
        if not bytes then
            return nil, err
        end
    end
end

local function send_body(sock, body)
    if type(body) == "function" then
        return send_pieces(sock, body)
    end
    local bytes, err = sock:send(type(body) == "table" and body or tostring(body))
    return bytes and true, err
end

local function expects_continue(headers)
    local expect = message.joined(headers, "Expect")
    return expect ~= nil and lower(tostring(expect)) == "100-continue"
end

-- Sends a request, its body included unless it waits for leave. true; or nil, an error and what
-- the body's function gave with it. Leaves the complete fields in params.headers.
function _M.send_request(self, params)
    local sock, body = self.sock, params.body
    if not sock then
        return nil, "not initialized"
    end
    local method = upper(params.method or "GET")
    local headers, err = complete_headers(self, params, method)
    if not headers then
        return nil, err
    end
    params.headers = headers
    local head
    head, err = message.request_head(method, target_of(self, params), params.version or 1.1,
                                     headers)
    if not head then
        return nil, err
    end
    if debugging then
        log(DEBUG, "\n", head)
    end

    local exchange = self.exchange
    exchange.owed = exchange.owed + 1
    local ok, partial
    if body == nil or expects_continue(headers) then
        ok, err = sock:send(head)
    elseif type(body) == "function" then
        ok, err = sock:send(head)
        if ok then
            ok, err, partial = send_body(sock, body)
        end
    else
        ok, err = sock:send({ head, type(body) == "table" and body or tostring(body) })
    end
    if not ok then
        return nil, err, partial
    end
    return true
end

-- -- Responses

local function has_body(method, status)
    return method ~= "HEAD" and status >= 200 and status ~= 204 and status ~= 304
           and not (method == "CONNECT" and status < 300)
end

-- The final response's head. Interim responses are passed over; the first 100 lets a body that
-- waited go.
local function receive_final_head(self, params)
    local sock = self.sock
    local read_line = lines.reader(sock)
    local waiting = params.body ~= nil and expects_continue(params.headers)
    for _ = 1, interim_responses_max do
        local head, err, nothing = message.receive_head(read_line)
        if not head then
            return nil, err, nothing
        end
        local status = head.status
        if status >= 200 or status == 101 then
            if waiting then
                -- The body was announced and never came: what follows could be taken for it.
                self.keepalive = false
            end
            return head
        end
        if status == 100 and waiting then
            waiting = false
            local ok
            ok, err = send_body(sock, params.body)
            if not ok then
                return nil, err
            end
        end
    end
    return nil, "too many interim responses"
end

local function merge_trailers(headers, trailers)
    for name, value in pairs(trailers) do
        if headers[name] == nil and not no_trailer[lower(name)] then
            headers[name] = value
        end
    end
end

-- read_body(limit?): the whole body; or nil, error and what had come. A body beyond `limit` bytes
-- is an error.
local function read_body(res, limit)
    local reader = res.body_reader
    if not reader then
        return nil, "no body to be read"
    end
    local pieces, count, bytes = {}, 0, 0
    local wanted = limit and limited_chunk or nil
    while true do
        local piece, err, partial = reader(wanted)
        if not piece then
            if err then
                pieces[count + 1] = partial
                return nil, err, concat(pieces)
            end
            return concat(pieces)
        end
        count, bytes = count + 1, bytes + #piece
        pieces[count] = piece
        if limit and bytes > limit then
            return nil, "response body too large", concat(pieces)
        end
    end
end

-- Puts the trailer fields beneath the header fields; the body must have been read.
local function read_trailers(res)
    local trailers = res.trailers
    if trailers then
        merge_trailers(res.headers, trailers)
    elseif not res.headers["Trailer"] then
        return nil, "no trailers"
    elseif trailers == nil then
        return nil, "the body has not been read"
    end
end

-- Gives the response its body's reader, framed as RFC 9112, section 6.3 says. nil and an error
-- when it cannot be told where the body ends.
local function attach_body(self, res, head)
    local sock, headers, exchange = self.sock, head.headers, self.exchange
    local function finish(trailers)
        res.trailers = trailers or false
        exchange.owed = exchange.owed - 1
    end
    if not res.has_body then
        finish()
        res.body_reader = bodies.none
        return true
    end
    if head.version >= 1.1 and message.is_chunked(headers) then
        if headers["Content-Length"] then
            self.keepalive = false
        end
        res.body_reader = bodies.chunked(sock, nil, finish)
        return true
    end
    local length, err = message.content_length(headers)
    if err then
        self.keepalive = false
        return nil, err
    end
    if length then
        res.body_reader = bodies.sized(sock, length, nil, finish)
    else
        self.keepalive = false
        res.body_reader = bodies.until_close(sock)
    end
    return true
end

-- The response to a request sent by send_request; or nil, an error and whether nothing had come.
function _M.read_response(self, params)
    local method = upper(params.method or "GET")
    local head, err, nothing = receive_final_head(self, params)
    if not head then
        self.keepalive = false
        return nil, err, nothing
    end
    if head.status == 101 or not message.keeps_alive(head.version, head.headers) then
        self.keepalive = false
    end
    local res = {
        status = head.status,
        version = head.version,
        reason = head.reason,
        headers = head.headers,
        has_body = has_body(method, head.status),
        read_body = read_body,
        read_trailers = read_trailers,
    }
    local ok
    ok, err = attach_body(self, res, head)
    if not ok then
        return nil, err
    end
    return res
end

function _M.request(self, params)
    params = copy(params)
    local ok, err, partial = self:send_request(params)
    if not ok then
        return nil, err, partial
    end
    return self:read_response(params)
end

-- A response of a pipeline is read when one of its fields is asked for.
local function lazy_response(client, params)
    return setmetatable({ params = params, response_read = false }, {
        __index = function(self, key)
            if rawget(self, "response_read") == false then
                self.response_read = true
                local res, err = client:read_response(params)
                if not res then
                    log(ERR, err)
                    return nil
                end
                -- The response itself answers from now on: its reader sets fields there.
                setmetatable(self, { __index = res })
                return res[key]
            end
        end,
    })
end

function _M.request_pipeline(self, requests)
    local responses = {}
    for i, params in ipairs(requests) do
        params = copy(params)
        if params.headers and params.headers["Expect"] == "100-continue" then
            return nil, "Cannot pipeline request specifying Expect: 100-continue"
        end
        local ok, err = self:send_request(params)
        if not ok then
            return nil, err
        end
        responses[i] = lazy_response(self, params)
    end
    return responses
end

-- Connects and asks. A kept connection the server closed meanwhile says nothing about the request:
-- where that may be repeated, it is (RFC 9110, section 9.2.2).
local function exchange_on_some_connection(self, params)
    local repeatable = idempotent[upper(params.method or "GET")]
                       and type(params.body) ~= "function"
    while true do
        local ok, err = self:connect(params)
        if not ok then
            return nil, err
        end
        local reused = self:get_reused_times()
        local attempt = copy(params)
        local res, nothing
        ok, err = self:send_request(attempt)
        nothing = not ok
        if ok then
            res, err, nothing = self:read_response(attempt)
        end
        if res then
            return res
        end
        self:close()
        if not (repeatable and nothing and lost_connection[err] and reused and reused > 0) then
            return nil, err
        end
    end
end

local function uri_params(self, uri, params)
    params = copy(params or {})
    local parsed, err = self:parse_uri(uri, false)
    if not parsed then
        return nil, err
    end
    local path, query
    params.scheme, params.host, params.port, path, query = unpack(parsed, 1, 5)
    params.path = params.path or path
    params.query = params.query or query
    params.ssl_server_name = params.ssl_server_name or params.host

    if self.proxy_opts or params.proxy_opts then
        params.proxy_opts = copy(self.proxy_opts or params.proxy_opts)
        local authorization = (params.headers or {})["Proxy-Authorization"]
        if authorization then
            params.proxy_opts.http_proxy_authorization = authorization
            params.proxy_opts.https_proxy_authorization = authorization
        end
    end
    return params
end

function _M.request_uri(self, uri, params)
    local err
    params, err = uri_params(self, uri, params)
    if not params then
        return nil, err
    end
    local res
    res, err = exchange_on_some_connection(self, params)
    if not res then
        return nil, err
    end
    res.body, err = res:read_body(params.max_body_bytes)
    if not res.body then
        self:close()
        return nil, err
    end
    local ok
    if params.keepalive == false then
        ok, err = self:close()
    else
        ok, err = self:set_keepalive(params.keepalive_timeout, params.keepalive_pool)
    end
    if not ok then
        log(DEBUG, "the connection was not kept: ", err)
    end
    return res, nil
end

-- -- The client's own request, and what only remains for those who use it

-- A function that gives the body of the current request, or of what `sock` and `headers` are;
-- nil without a body; nil and an error.
function _M.get_client_body_reader(_, chunk_size, sock, headers)
    chunk_size = chunk_size or client_chunk_default
    local own, err = not sock, nil
    if own then
        local ok
        ok, sock, err = pcall(req.socket)
        if not ok then
            return nil, sock
        end
        if not sock then
            if err == "no body" then
                return nil
            end
            return nil, err
        end
    end
    headers = headers or req.get_headers()
    local length = tonumber(headers["Content-Length"])
    if length then
        return bodies.sized(sock, length, chunk_size)
    end
    if message.is_chunked(headers) then
        -- The request's own socket gives the body without its framing.
        return own and bodies.until_close(sock, chunk_size) or bodies.chunked(sock, chunk_size)
    end
    return nil
end

function _M.ssl_handshake(self, ...)
    log(DEBUG, "Use of deprecated function `ssl_handshake`")
    local sock = self.sock
    if not sock then
        return nil, "not initialized"
    end
    self.ssl = true
    return sock:sslhandshake(...)
end

function _M.connect_proxy(self, proxy_uri, scheme, host, port, authorization)
    log(DEBUG, "Use of deprecated function `connect_proxy`")
    local parts, err = self:parse_uri(proxy_uri, false)
    if not parts then
        return nil, err
    end
    if parts[1] ~= "http" then
        return nil, "protocol " .. parts[1] .. " not supported for proxy connections"
    end
    local ok
    ok, err = self:tcp_only_connect(parts[2], parts[3])
    if not ok then
        return nil, err
    end
    if scheme == "https" then
        local destination = host .. ":" .. port
        local res
        res, err = self:request({
            method = "CONNECT",
            path = destination,
            headers = { ["Host"] = destination, ["Proxy-Authorization"] = authorization },
        })
        if not res then
            return nil, err
        end
        if res.status < 200 or res.status > 299 then
            return nil, "failed to establish a tunnel through a proxy: " .. res.status
        end
    end
    return ok, nil
end

-- The current request, sent on.
function _M.proxy_request(self, chunk_size)
    log(DEBUG, "Use of deprecated function `proxy_request`")
    local var = ngx.var
    local headers = req.get_headers()
    local body, err = self:get_client_body_reader(chunk_size)
    if err then
        return nil, err
    end
    if body and message.is_chunked(headers) then
        body = bodies.framed(body)
    end
    return self:request({
        method = req.get_method(),
        path = gsub(var.uri, "%s", "%%20") .. var.is_args .. (var.query_string or ""),
        body = body,
        headers = headers,
    })
end

-- A response, as the answer to the current request.
function _M.proxy_response(_, res, chunk_size)
    log(DEBUG, "Use of deprecated function `proxy_response`")
    if not res then
        log(ERR, "no response provided")
        return
    end
    ngx.status = res.status
    for name, value in pairs(res.headers) do
        if not hop_by_hop[lower(name)] then
            ngx.header[name] = value
        end
    end
    local reader = res.body_reader
    while true do
        local piece, err = reader(chunk_size)
        if err then
            log(ERR, err)
        end
        if not piece then
            return
        end
        local ok
        ok, err = ngx.print(piece)
        if not ok then
            log(ERR, err)
            return
        end
    end
end

return _M
