-- The functions of Lua's standard library that call back, written in Lua, so that what they call
-- may wait: a thread cannot be suspended inside a C function. Loaded by the server at start, unless
-- `lua_compat openresty` is set; what needs no callback stays with LuaJIT's own functions.

local loaded = package.loaded
local sentinel = loaded[...]             -- what marks a module that is being loaded
local waits = coroutine.running          -- nil on the main thread, where nothing waits

local error, type, select, tostring = error, type, select, tostring
local getinfo, getlocal = debug.getinfo, debug.getlocal
local find, sub, concat = string.find, string.sub, table.concat
local c_sort, c_gsub, loadfile = table.sort, string.gsub, loadfile

local _M = {}

-- ---- require ----

local loading = {}        -- the thread that loads a module, by the module's name
local waiting_for = {}    -- the module a thread waits for

local function find_loader(name)
    local loaders = package.loaders
    if type(loaders) ~= "table" then
        error("'package.loaders' must be a table", 0)
    end
    local tried = {}
    for i = 1, #loaders + 1 do
        local loader = loaders[i]
        if loader == nil then
            error("module '" .. name .. "' not found:" .. concat(tried), 3)
        end
        local found = loader(name)
        if type(found) == "function" then
            return found
        end
        if type(found) == "string" then
            tried[#tried + 1] = found
        end
    end
end

local function run_loader(name, loader)
    local module = loader(name)
    if module ~= nil then
        loaded[name] = module
    elseif loaded[name] == sentinel then
        loaded[name] = true
    end
    loading[name] = nil
    return loaded[name]
end

-- Whether the thread that began to load the module is still at it.
local function is_being_loaded(name)
    local thread = loading[name]
    if not thread then
        return false
    end
    for level = 0, 200 do
        local info = getinfo(thread, level, "f")
        if not info then
            return false
        end
        if info.func == run_loader then
            local _, value = getlocal(thread, level, 1)
            if value == name then
                return true
            end
        end
    end
    return true
end

-- Whether waiting for the module would be waiting for oneself.
local function is_loop(name, thread)
    for _ = 1, 100 do
        local loader = loading[name]
        if loader == thread then
            return is_being_loaded(name)
        end
        name = waiting_for[loader]
        if not name then
            return false
        end
    end
    return true
end

-- The module is marked as being loaded. Waits for the thread that does it, if it still does; a mark
-- that a failed attempt left means nothing.
local function await_module(name)
    local thread = waits()
    if is_loop(name, thread) then
        error("loop or previous error loading module '" .. name .. "'", 3)
    end
    waiting_for[thread] = name
    while loaded[name] == sentinel and is_being_loaded(name) do
        ngx.sleep(0.001)
    end
    waiting_for[thread] = nil
end

local c_require = require

-- Like Lua's own, but a module may wait while it is loaded; who else asks for it then waits, too. A
-- module that failed is tried again by the next who asks for it.
function _M.require(name)
    local module = loaded[name]
    if module and module ~= sentinel then
        return module
    end
    if type(name) ~= "string" then
        return c_require(name)           -- for its error
    end
    if module then
        if not waits() then
            return c_require(name)       -- on the main thread it can only be a loop
        end
        await_module(name)
        module = loaded[name]
        if module and module ~= sentinel then
            return module
        end
    end
    local loader = find_loader(name)
    loaded[name] = sentinel
    loading[name] = waits()
    local result = run_loader(name, loader)
    return result                        -- no tail call: is_being_loaded() looks at the stack
end

function _M.dofile(name)
    local chunk, err = loadfile(name)
    if not chunk then
        error(err, 0)
    end
    return chunk()
end

-- ---- table.sort ----

local run_length = 8

local function sort_runs(list, size, before)
    for from = 1, size, run_length do
        local to = from + run_length - 1
        if to > size then
            to = size
        end
        for i = from + 1, to do
            local item = list[i]
            local j = i - 1
            while j >= from and before(item, list[j]) do
                list[j + 1] = list[j]
                j = j - 1
            end
            list[j + 1] = item
        end
    end
end

-- Merges the sorted [from, middle) and [middle, to] of one list into the other.
local function merge(list, other, from, middle, to, before)
    local left, right = from, middle
    for at = from, to do
        if left < middle and (right > to or not before(list[right], list[left])) then
            other[at] = list[left]
            left = left + 1
        else
            other[at] = list[right]
            right = right + 1
        end
    end
end

-- With an order of its own: a merge sort, so a doubtful order function does no harm.
function _M.sort(list, before)
    if type(before) ~= "function" or type(list) ~= "table" then
        return c_sort(list, before)
    end
    local size = #list
    sort_runs(list, size, before)
    local source, target = list, {}
    local width = run_length
    while width < size do
        for from = 1, size, 2 * width do
            local middle = from + width
            local to = from + 2 * width - 1
            if to > size then
                to = size
            end
            if middle > size then
                middle = size + 1
            end
            merge(source, target, from, middle, to, before)
        end
        source, target = target, source
        width = 2 * width
    end
    if source ~= list then
        for i = 1, size do
            list[i] = source[i]
        end
    end
end

-- ---- string.gsub ----

local function replacement(text, call, first, last, ...)
    if not first then
        return nil
    end
    local value
    if select("#", ...) == 0 then
        value = call(sub(text, first, last))
    else
        value = call(...)
    end
    if not value then
        value = sub(text, first, last)
    elseif type(value) ~= "string" and type(value) ~= "number" then
        error("invalid replacement value (a " .. type(value) .. ")", 0)
    end
    return first, last, value
end

-- With a function as replacement.
function _M.gsub(text, pattern, call, most)
    if type(call) ~= "function" or (type(text) ~= "string" and type(text) ~= "number") then
        return c_gsub(text, pattern, call, most)
    end
    text = tostring(text)
    local anchored = sub(pattern, 1, 1) == "^"
    local size, at, count, pieces = #text, 1, 0, {}
    while at <= size + 1 and (not most or count < most) do
        local first, last, value = replacement(text, call, find(text, pattern, at))
        if not first then
            break
        end
        count = count + 1
        local n = #pieces
        pieces[n + 1] = sub(text, at, first - 1)
        pieces[n + 2] = value
        if last < first then             -- an empty match: the byte behind it stays
            pieces[n + 3] = sub(text, first, first)
            last = first
        end
        at = last + 1
        if anchored then
            break
        end
    end
    pieces[#pieces + 1] = sub(text, at)
    return concat(pieces), count
end

local globals = getfenv(0)
globals.require = _M.require
globals.dofile = _M.dofile
table.sort = _M.sort
string.gsub = _M.gsub

return _M
