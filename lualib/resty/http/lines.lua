-- Reads lines of HTTP from a cosocket, none of them longer than a limit: an endless line must not
-- fill the memory. resty.http.message and resty.http.body are the callers.

local byte, sub = string.byte, string.sub

local line_bytes_max = 65536
local carriage_return = 13

local _M = {}

-- reader(sock): a function that returns the next line without its end, or nil and an error.
function _M.reader(sock)
    local iterator = sock:receiveuntil("\n")
    return function()
        local line, err = iterator(line_bytes_max)
        if not line then
            return nil, err or "closed"
        end
        -- This ends the iterator's round, unless the line has more bytes.
        if iterator(1) then
            return nil, "line too long"
        end
        if byte(line, -1) == carriage_return then
            return sub(line, 1, -2)
        end
        return line
    end
end

return _M
