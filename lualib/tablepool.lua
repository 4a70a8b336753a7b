-- Tables for reuse, in pools by name.

local new_tab = require "table.new"
local clear_tab = require "table.clear"

local setmetatable = setmetatable
local error = error

local _M = {}

local kept_max = 200
-- Tables that were large once stay large: a pool starts afresh after this many uses.
local uses_max = 20000

local pools = {}

local function new_pool(tag)
    local pool = { count = 0, uses = 0 }
    pools[tag] = pool
    return pool
end

function _M.fetch(tag, narr, nrec)
    local pool = pools[tag] or new_pool(tag)
    local count = pool.count
    if count == 0 then
        return new_tab(narr, nrec)
    end
    local object = pool[count]
    pool[count] = nil
    pool.count = count - 1
    return object
end

function _M.release(tag, object, noclear)
    if not object then
        error("object empty", 2)
    end
    local pool = pools[tag] or new_pool(tag)
    pool.uses = pool.uses + 1
    if pool.uses >= uses_max then
        new_pool(tag)
        return
    end
    if pool.count >= kept_max then
        return
    end
    if not noclear then
        setmetatable(object, nil)
        clear_tab(object)
    end
    pool.count = pool.count + 1
    pool[pool.count] = object
end

return _M
