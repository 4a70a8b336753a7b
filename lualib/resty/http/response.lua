-- How resty.http reads a response: its head, the reader of its body, its trailers.

local bodies = require "resty.http.body"
local message = require "resty.http.message"
local request = require "resty.http.request"

local concat = table.concat
local lower, upper = string.lower, string.upper
local pairs = pairs
local rawget, setmetatable = rawget, setmetatable
local log = ngx.log
local ERR = ngx.ERR

local _M = {}

local interim_responses_max = 32
local limited_piece_bytes = 65536

-- Fields that frame, route or authorize must not come after the body (RFC 9110, section 6.5.1).
local no_trailer = {
    ["transfer-encoding"] = true, ["content-length"] = true, ["host"] = true, ["trailer"] = true,
    ["content-encoding"] = true, ["content-type"] = true, ["content-range"] = true,
    ["authorization"] = true, ["set-cookie"] = true, ["connection"] = true,
}

local function has_body(method, status)
    return method ~= "HEAD" and status >= 200 and status ~= 204 and status ~= 304
           and not (method == "CONNECT" and status < 300)
end

-- The final response's head. Interim responses are passed over; the first 100 lets a body that
-- waited go.
local function receive_final_head(self, params)
    local sock = self.sock
    local waiting = self.exchange.waiting
    for _ = 1, interim_responses_max do
        local head, err, nothing = message.receive_head(sock)
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
            ok, err = request.send_body(sock, params.body)
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
    local wanted = limit and limited_piece_bytes or nil
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
function _M.read(self, params)
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

-- A response of a pipeline is read when one of its fields is asked for.
function _M.lazy(client, params)
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

return _M
