-- A cache of Lua values in one worker, which evicts what was unused longest. Items are found by Lua
-- tables; their order is kept by resty.lrucache.ring.

local ring = require "resty.lrucache.ring"
local new_tab = require "table.new"
local clear_tab = require "table.clear"

local setmetatable = setmetatable

local _M = { _VERSION = "0.15", count = ring.count, capacity = ring.capacity,
             get_keys = ring.get_keys }
local mt = { __index = _M }

function _M.new(size)
    if size < 1 then
        return nil, "size too small"
    end
    local self = setmetatable({
        hasht = {},
        slots = {},
        keys = new_tab(size, 0),
        newer = new_tab(size, 1),
        older = new_tab(size, 1),
        expires = new_tab(size, 0),
        flags = new_tab(size, 0),
        num_items = 0,
        max_items = size,
        free = 1,
    }, mt)
    ring.clear(self)
    return self
end

-- The value; or nil and the expired one. Then the flags.
function _M.get(self, key)
    local value = self.hasht[key]
    if value == nil then
        return nil
    end
    return ring.use(self, self.slots[key], value)
end

function _M.delete(self, key)
    self.hasht[key] = nil
    local slot = self.slots[key]
    if not slot then
        return false
    end
    self.slots[key] = nil
    self.keys[slot] = false
    ring.unlink(self, slot)
    ring.give_back(self, slot)
    self.num_items = self.num_items - 1
    return true
end

local function take_slot(self)
    local slot = ring.take_free(self)
    if slot then
        self.num_items = self.num_items + 1
        return slot
    end
    slot = ring.oldest(self)
    ring.unlink(self, slot)
    local key = self.keys[slot]
    self.hasht[key], self.slots[key] = nil, nil
    return slot
end

function _M.set(self, key, value, ttl, flags)
    self.hasht[key] = value
    local slot = self.slots[key]
    if slot then
        ring.unlink(self, slot)
    else
        slot = take_slot(self)
        self.slots[key] = slot
        self.keys[slot] = key
    end
    ring.link_newest(self, slot)
    ring.stamp(self, slot, ttl, flags)
end

function _M.flush_all(self)
    clear_tab(self.hasht)
    clear_tab(self.slots)
    clear_tab(self.keys)
    ring.clear(self)
end

return _M
