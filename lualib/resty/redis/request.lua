-- Redis' requests: the strings of which a command is made, most of them made once. For resty.redis;
-- it sends nothing.

local clear = require "table.clear"
local new_tab = require "table.new"

local concat = table.concat
local select, setmetatable, tostring, type = select, setmetatable, tostring, type

-- Longer arguments than this are never copied in Lua.
local SHORT_BYTES_MAX = 1024
-- Requests of up to so many arguments have a table and a ready-made head per command.
local REUSED_ARGUMENTS_MAX = 8

-- What stands between two arguments: a line end and the length of the second one.
local length_lines = new_tab(256, 1)
for length = 0, 256 do
    length_lines[length] = "\r\n$" .. length .. "\r\n"
end

-- By a request's number of arguments: a table all of whose elements every such request sets.
local request_tables = new_tab(REUSED_ARGUMENTS_MAX, 1)
for n = 0, REUSED_ARGUMENTS_MAX do
    request_tables[n] = new_tab(2 * n + 2, 0)
end

-- A command's heads by number of arguments: the count, and the command's own length and name.
local function new_heads(command)
    local heads = new_tab(REUSED_ARGUMENTS_MAX, 2)
    heads.name = "\r\n$" .. #command .. "\r\n" .. command
    for n = 0, REUSED_ARGUMENTS_MAX do
        heads[n] = "*" .. n + 1 .. heads.name
    end
    return heads
end

local heads_of = setmetatable({}, { __index = function(all, command)
    local heads = new_heads(command)
    all[command] = heads
    return heads
end })

local function put(request, at, value)
    if type(value) ~= "string" then
        value = tostring(value)
    end
    local length = #value
    request[at + 1] = length_lines[length] or "\r\n$" .. length .. "\r\n"
    request[at + 2] = value
    return at + 2
end

local function put_few(request, at, n, a, b, c, d, ...)
    at = put(request, at, a)
    if n == 1 then
        return at
    end
    at = put(request, at, b)
    if n == 2 then
        return at
    end
    at = put(request, at, c)
    if n == 3 then
        return at
    end
    at = put(request, at, d)
    if n == 4 then
        return at
    end
    return put_few(request, at, n - 4, ...)
end

-- Appends a whole command; gives the position of its last string.
local function put_command(request, at, heads, n, ...)
    at = at + 1
    request[at] = heads[n] or "*" .. n + 1 .. heads.name
    if n > REUSED_ARGUMENTS_MAX then
        local arguments = { ... }
        for i = 1, n do
            at = put(request, at, arguments[i])
        end
    elseif n > 0 then
        at = put_few(request, at, n, ...)
    end
    at = at + 1
    request[at] = "\r\n"
    return at
end

-- Nils at the end are no arguments, as they would not be to a table constructor.
local function count_arguments(...)
    local n = select("#", ...)
    while n > 0 and (select(n, ...)) == nil do
        n = n - 1
    end
    return n
end

-- What to send for one command of `n` arguments: a string, or a table when an argument is long.
local function whole(heads, n, ...)
    if n > REUSED_ARGUMENTS_MAX then
        local request = new_tab(2 * n + 2, 0)
        put_command(request, 0, heads, n, ...)
        return request
    end
    local request = request_tables[n]
    put_command(request, 0, heads, n, ...)
    for i = 3, 2 * n + 1, 2 do
        if #request[i] > SHORT_BYTES_MAX then
            -- Not to be left behind in a table that is used again.
            local own = new_tab(2 * n + 2, 0)
            for j = 1, 2 * n + 2 do
                own[j] = request[j]
            end
            clear(request)
            return own
        end
    end
    return concat(request, "", 1, 2 * n + 2)
end

return {
    heads_of = heads_of,
    length_lines = length_lines,
    count_arguments = count_arguments,
    put_command = put_command,
    whole = whole,
}
