-- Reads a multipart/form-data body piece by piece, as it comes from the client.

local req_socket = ngx.req.socket
local find, lower, match, sub = string.find, string.lower, string.match, string.sub
local max, min = math.max, math.min
local setmetatable = setmetatable
local var = ngx.var

local chunk_bytes_default, line_bytes_default = 4096, 512
local read_bytes_min = 4096

local _M = { _VERSION = "0.11" }
local mt = { __index = _M }

-- The parameter of Content-Type that says what separates the parts.
local function find_boundary()
    local header = var.content_type
    if not header then
        return nil
    end
    local _, after = find(lower(header), ";%s*boundary=")
    if not after then
        return nil
    end
    return match(header, '^"([^"]+)"', after + 1) or match(header, '^([^",;]-)%s*[,;]', after + 1)
           or match(header, '^([^",;]-)%s*$', after + 1)
end

-- `buffer` from `at` on is what was read and not yet given out.
function _M.new(_, chunk_size, max_line_size, preserve_body)
    local boundary = find_boundary()
    if not boundary or boundary == "" then
        return nil, "no boundary defined in Content-Type"
    end
    local socket, err = req_socket()
    if not socket then
        return nil, err
    end
    if preserve_body then
        ngx.req.init_body(chunk_size or chunk_bytes_default)
    end
    return setmetatable({
        sock = socket,
        size = chunk_size or chunk_bytes_default,
        line_size = max_line_size or line_bytes_default,
        delimiter = "--" .. boundary,
        state = "preamble",
        preserve_body = preserve_body,
        buffer = "",
        at = 1,
    }, mt)
end

function _M:set_timeout(timeout)
    if not self.sock then
        return nil, "not initialized"
    end
    return self.sock:settimeout(timeout)
end

-- ---- the buffer ----

-- Reads more behind what is left; false and an error at the end of the body.
local function fill(self)
    if self.ended then
        return false, "closed"
    end
    local data, err, partial = self.sock:receive(max(self.size, read_bytes_min))
    if not data then
        if err ~= "closed" then
            return false, err
        end
        self.ended = true
        data = partial
        if not data or data == "" then
            return false, "closed"
        end
    end
    if self.preserve_body then
        ngx.req.append_body(data)
    end
    self.buffer = sub(self.buffer, self.at) .. data
    self.at = 1
    return true
end

local function finish_body(self)
    if self.preserve_body then
        ngx.req.finish_body()
        self.preserve_body = nil
    end
end

-- At least so many bytes in the buffer, or an error.
local function need(self, bytes)
    while #self.buffer - self.at + 1 < bytes do
        local ok, err = fill(self)
        if not ok then
            return nil, err
        end
    end
    return true
end

-- The next line without its end.
local function take_line(self)
    while true do
        local stop = find(self.buffer, "\r\n", self.at, true)
        local bytes = (stop or #self.buffer) - self.at
        if bytes > self.line_size then
            finish_body(self)
            return nil, "line too long: " .. sub(self.buffer, self.at, self.at + self.line_size)
                        .. "..."
        end
        if stop then
            local line = sub(self.buffer, self.at, stop - 1)
            self.at = stop + 2
            return line
        end
        local ok, err = fill(self)
        if not ok then
            return nil, err
        end
    end
end

-- ---- states: each gives a token, or nothing to go on with the next state ----

local states = {}

-- Behind a delimiter: "--" when it was the last, else the rest of its line.
local function pass_delimiter(self)
    local ok, err = need(self, 2)
    if not ok then
        return nil, err
    end
    if sub(self.buffer, self.at, self.at + 1) == "--" then
        self.state = "epilogue"
        return true
    end
    self.state = "header"
    return take_line(self)
end

function states.preamble(self)
    while true do
        local start, stop = find(self.buffer, self.delimiter, self.at, true)
        if start then
            self.at = stop + 1
            local ok, err = pass_delimiter(self)
            if not ok then
                return nil, nil, err
            end
            self.delimiter = "\r\n" .. self.delimiter
            return
        end
        self.at = max(self.at, #self.buffer - #self.delimiter + 2)
        local ok, err = fill(self)
        if not ok then
            return nil, nil, err
        end
    end
end

function states.header(self)
    local line, err = take_line(self)
    if not line then
        return nil, nil, err
    end
    if line == "" then
        -- The empty line's end may be the beginning of the delimiter of an empty part.
        self.at = self.at - 2
        self.body_start = true
        self.state = "body"
        return
    end
    local key, value = match(line, "([^: \t]+)%s*:%s*(.+)")
    if not key then
        return "header", line
    end
    return "header", { key, value, line }
end

local function end_part(self, stop)
    self.at = stop + 1
    self.body_start = nil
    local ok, err = pass_delimiter(self)
    if not ok then
        return nil, nil, err
    end
    if self.state == "epilogue" then
        local _, _, failure = states.epilogue(self)
        if failure then
            return nil, nil, failure
        end
    end
    return "part_end"
end

-- Up to `size` bytes, none of which can belong to a delimiter.
function states.body(self)
    while true do
        local begin = self.body_start and self.at + 2 or self.at
        local start, stop = find(self.buffer, self.delimiter, self.at, true)
        local known = (start or #self.buffer - #self.delimiter + 2) - begin
        if start and known <= 0 then
            return end_part(self, stop)
        end
        if known >= self.size or (start and known > 0) then
            local bytes = min(known, self.size)
            self.at = begin + bytes
            self.body_start = nil
            return "body", sub(self.buffer, begin, begin + bytes - 1)
        end
        local ok, err = fill(self)
        if not ok then
            return nil, nil, err
        end
    end
end

-- What comes after the last part is read and forgotten.
function states.epilogue(self)
    repeat
        self.buffer, self.at = "", 1
        local ok, err = fill(self)
        if not ok and err ~= "closed" then
            return nil, nil, err
        end
    until not ok
    finish_body(self)
    self.state = "eof"
end

function states.eof()
    return "eof", nil
end

function _M:read()
    while true do
        local token, value, err = states[self.state](self)
        if token or err then
            return token, value, err
        end
    end
end

return _M
