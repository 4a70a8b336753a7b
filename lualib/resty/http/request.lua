-- How resty.http sends a request: completes its fields, makes its head, sends its body.

local message = require "resty.http.message"

local concat = table.concat
local find, format, lower, sub, upper = string.find, string.format, string.lower, string.sub,
                                        string.upper
local pairs = pairs
local tostring, type = tostring, type
local encode_args = ngx.encode_args
local get_phase = ngx.get_phase
local log = ngx.log
local DEBUG = ngx.DEBUG

local _M = { debugging = false }

local expecting_body = { POST = true, PUT = true, PATCH = true }
-- Where ngx.var can be read, and there is a request whose trace goes on.
_M.phases = {
    set = true, rewrite = true, server_rewrite = true, access = true, precontent = true,
    content = true, header_filter = true, body_filter = true, log = true, balancer = true,
}

-- A request's fields: by the names they go out with, and those names by the lower-case ones.
local function given_headers(params)
    local headers, names = {}, {}
    for name, value in pairs(params.headers or headers) do
        name = tostring(name)
        local key = lower(name)
        local known = names[key]
        if not known then
            names[key], known = name, name
        end
        headers[known] = value
    end
    return headers, names
end

local function is_chunked(value)
    if type(value) == "table" then
        value = concat(value, ",")
    end
    return value ~= nil and find(lower(value), "chunked", 1, true) ~= nil
end

-- Sees to the length of the body, where it is not said. nil and an error where it must be.
local function complete_length(headers, names, body, method)
    local coding = names["transfer-encoding"]
    if coding and is_chunked(headers[coding]) then
        -- Both would invite request smuggling (RFC 9112, section 6.2).
        if names["content-length"] then
            headers[names["content-length"]] = nil
        end
        return true
    end
    if names["content-length"] then
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

-- The host as the connection was made; nil and an error where that is none.
local function own_host(self)
    local host, port = self.host or "", self.port
    if sub(host, 1, 5) == "unix:" then
        return nil, "Unable to generate a useful Host header for a unix domain socket. "
                    .. "Please provide one."
    end
    if port and port ~= (self.ssl and 443 or 80) then
        return host .. ":" .. port
    end
    return host
end

-- The request's fields with what goes without saying, and whether the body waits for leave; or nil
-- and an error.
local function complete_headers(self, params, method, user_agent)
    local headers, names = given_headers(params)
    local ok, err = complete_length(headers, names, params.body, method)
    if not ok then
        return nil, err
    end
    if not names.host then
        headers["Host"], err = own_host(self)
        if err then
            return nil, err
        end
    end
    if not names["proxy-authorization"] then
        headers["Proxy-Authorization"] = self.http_proxy_auth
    end
    if not names["user-agent"] then
        headers["User-Agent"] = user_agent
    end
    if params.version == 1.0 and not names.connection then
        headers["Connection"] = "Keep-Alive"
    end
    -- W3C trace context: what a tracing module put into this request goes on.
    if not names.traceparent and _M.phases[get_phase()] then
        headers["traceparent"] = ngx.var.http_traceparent
    end
    local expect = names.expect and headers[names.expect]
    return headers, params.body ~= nil and expect ~= nil
                    and lower(tostring(expect)) == "100-continue"
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

function _M.send_body(sock, body)
    if type(body) == "function" then
        return send_pieces(sock, body)
    end
    local bytes, err = sock:send(type(body) == "table" and body or tostring(body))
    return bytes and true, err
end

-- Sends a request, its body included unless it waits for leave. true; or nil, an error and what
-- the body's function gave with it.
function _M.send(self, params, user_agent)
    local sock, body = self.sock, params.body
    if not sock then
        return nil, "not initialized"
    end
    local method = upper(params.method or "GET")
    local headers, waiting = complete_headers(self, params, method, user_agent)
    if not headers then
        return nil, waiting
    end
    local head, err = message.request_head(method, target_of(self, params),
                                           params.version or 1.1, headers)
    if not head then
        return nil, err
    end
    if _M.debugging then
        log(DEBUG, "\n", head)
    end

    local exchange = self.exchange
    exchange.owed = exchange.owed + 1
    exchange.waiting = waiting
    local ok, partial
    if body == nil or waiting then
        ok, err = sock:send(head)
    elseif type(body) == "function" then
        ok, err = sock:send(head)
        if ok then
            ok, err, partial = _M.send_body(sock, body)
        end
    else
        ok, err = sock:send({ head, type(body) == "table" and body or tostring(body) })
    end
    if not ok then
        return nil, err, partial
    end
    return true
end

return _M
