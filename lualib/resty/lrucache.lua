-- A cache of Lua values in one worker, which evicts what was unused longest.
-- Slots are numbers; `newer` and `older` chain the used ones in a ring through slot 0, and a chain
-- of free slots runs through `older`.

local new_tab = require "table.new"
local clear_tab = require "table.clear"

local now = ngx.now
local setmetatable = setmetatable
local type = type

local _M = { _VERSION = "0.15" }
local mt = { __index = _M }

local never = -1
local ring = 0

local function chain_free_slots(self)
    local older = self.older
    for slot = 1, self.max_items do
        older[slot] = slot + 1
    end
    self.free = 1
    older[ring], self.newer[ring] = ring, ring
end

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
    chain_free_slots(self)
    return self
end

function _M.count(self)
    return self.num_items
end

function _M.capacity(self)
    return self.max_items
end

local function unlink(self, slot)
    local newer, older = self.newer[slot], self.older[slot]
    self.older[newer] = older
    self.newer[older] = newer
end

local function link_newest(self, slot)
    local newest = self.older[ring]
    self.newer[slot], self.older[slot] = ring, newest
    self.newer[newest] = slot
    self.older[ring] = slot
end

-- The value; or nil and the expired one. Then the flags.
function _M.get(self, key)
    local value = self.hasht[key]
    if value == nil then
        return nil
    end
    local slot = self.slots[key]
    if self.older[ring] ~= slot then
        unlink(self, slot)
        link_newest(self, slot)
    end
    local expires = self.expires[slot]
    if expires >= 0 and expires < now() then
        return nil, value, self.flags[slot]
    end
    return value, nil, self.flags[slot]
end

function _M.delete(self, key)
    self.hasht[key] = nil
    local slot = self.slots[key]
    if not slot then
        return false
    end
    self.slots[key] = nil
    self.keys[slot] = false
    unlink(self, slot)
    self.older[slot] = self.free
    self.free = slot
    self.num_items = self.num_items - 1
    return true
end

local function take_slot(self)
    local slot = self.free
    if slot <= self.max_items then
        self.free = self.older[slot]
        self.num_items = self.num_items + 1
        return slot
    end
    slot = self.newer[ring]              -- the oldest
    unlink(self, slot)
    local key = self.keys[slot]
    self.hasht[key], self.slots[key] = nil, nil
    return slot
end

function _M.set(self, key, value, ttl, flags)
    self.hasht[key] = value
    local slot = self.slots[key]
    if slot then
        unlink(self, slot)
    else
        slot = take_slot(self)
        self.slots[key] = slot
        self.keys[slot] = key
    end
    link_newest(self, slot)
    self.expires[slot] = ttl and now() + ttl or never
    self.flags[slot] = type(flags) == "number" and flags >= 0 and flags or 0
end

-- The keys, newest first, at most max_count of them.
function _M.get_keys(self, max_count, res)
    if not max_count or max_count == 0 then
        max_count = self.num_items
    end
    res = res or new_tab(max_count + 1, 0)
    local count = 0
    local slot = self.older[ring]
    while slot ~= ring and count < max_count do
        count = count + 1
        res[count] = self.keys[slot]
        slot = self.older[slot]
    end
    res[count + 1] = nil
    return res
end

function _M.flush_all(self)
    clear_tab(self.hasht)
    clear_tab(self.slots)
    clear_tab(self.keys)
    self.num_items = 0
    chain_free_slots(self)
end

return _M
