-- HTTP/1.0 and 1.1 client over cosockets: connections, requests, streamed or whole responses,
-- pipelines. http.md beside this file is the manual.

local bodies = require "resty.http.body"
local connect_with = require "resty.http_connect"
local message = require "resty.http.message"
local proxy = require "resty.http.proxy"
local request = require "resty.http.request"
local response = require "resty.http.response"

local lower, upper = string.lower, string.upper
local ipairs, pairs, pcall = ipairs, pairs, pcall
local setmetatable = setmetatable
local tonumber, type, unpack = tonumber, type, unpack
local get_phase = ngx.get_phase
local log = ngx.log
local DEBUG = ngx.DEBUG
local re_match = ngx.re.match
local req = ngx.req
local tcp = ngx.socket.tcp

local _M = { _VERSION = "0.17.2" }
_M._USER_AGENT = "lua-resty-http/" .. _M._VERSION .. " (Lua) ngx_lua/"
                 .. ngx.config.ngx_lua_version
_M.transfer_encoding_is_chunked = message.is_chunked
_M.chunked_body = bodies.framed

local mt = { __index = _M }
local client_chunk_default = 65536

local idempotent = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, PUT = true,
                     DELETE = true }
local lost_connection = { ["closed"] = true, ["broken pipe"] = true,
                          ["connection reset by peer"] = true }

local function copy(from)
    local to = {}
    for key, value in pairs(from) do
        to[key] = value
    end
    return to
end

function _M.debug(on)
    request.debugging = on and true or false
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
        scheme = request.phases[get_phase()] and ngx.var.scheme
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

-- -- Requests and responses

-- true; or nil, an error and what the body's function gave with it.
function _M.send_request(self, params)
    return request.send(self, params, _M._USER_AGENT)
end

_M.read_response = response.read

function _M.request(self, params)
    local ok, err, partial = self:send_request(params)
    if not ok then
        return nil, err, partial
    end
    return self:read_response(params)
end

function _M.request_pipeline(self, requests)
    local responses = {}
    for i, params in ipairs(requests) do
        if params.headers and params.headers["Expect"] == "100-continue" then
            return nil, "Cannot pipeline request specifying Expect: 100-continue"
        end
        local ok, err = self:send_request(params)
        if not ok then
            return nil, err
        end
        responses[i] = response.lazy(self, { method = params.method })
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
        local res, nothing
        ok, err = self:send_request(params)
        nothing = not ok
        if ok then
            res, err, nothing = self:read_response(params)
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

-- -- The client's own request

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

require("resty.http.legacy")(_M)

return _M
