-- Methods of resty.http that only remain for those who use them: adds them to its table.

local bodies = require "resty.http.body"
local message = require "resty.http.message"

local gsub, lower = string.gsub, string.lower
local pairs = pairs
local log = ngx.log
local DEBUG, ERR = ngx.DEBUG, ngx.ERR
local req = ngx.req

local _M = {}

local hop_by_hop = {
    ["connection"] = true, ["keep-alive"] = true, ["proxy-authenticate"] = true,
    ["proxy-authorization"] = true, ["te"] = true, ["trailers"] = true, ["trailer"] = true,
    ["transfer-encoding"] = true, ["upgrade"] = true, ["content-length"] = true,
}

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

return function(http)
    for name, method in pairs(_M) do
        http[name] = method
    end
end
