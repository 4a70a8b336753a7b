-- What the two caches of resty.lrucache share: the order of use, and when items expire.
-- Slots are numbers; `newer` and `older` chain the used ones in a ring through slot 0, and a chain
-- of free slots runs through `older`. A cache holds `newer`, `older`, `expires` and `flags` (Lua
-- tables or C arrays, by slot), `keys`, `num_items`, `max_items` and `free`.

local new_tab = require "table.new"

local now = ngx.now
local type = type

local _M = {}

local never = -1
local ring = 0

-- All slots are free.
function _M.clear(self)
    local older = self.older
    for slot = 1, self.max_items do
        older[slot] = slot + 1
    end
    self.free, self.num_items = 1, 0
    older[ring], self.newer[ring] = ring, ring
end

function _M.unlink(self, slot)
    local newer, older = self.newer[slot], self.older[slot]
    self.older[newer] = older
    self.newer[older] = newer
end

function _M.link_newest(self, slot)
    local newest = self.older[ring]
    self.newer[slot], self.older[slot] = ring, newest
    self.newer[newest] = slot
    self.older[ring] = slot
end

function _M.oldest(self)
    return self.newer[ring]
end

-- A free slot; nil when none is left.
function _M.take_free(self)
    local slot = self.free
    if slot > self.max_items then
        return nil
    end
    self.free = self.older[slot]
    return slot
end

function _M.give_back(self, slot)
    self.older[slot] = self.free
    self.free = slot
end

-- Makes a slot the newest and gives its value in the shape of an answer: value, nil, flags; once it
-- has expired nil, value, flags.
function _M.use(self, slot, value)
    _M.unlink(self, slot)
    _M.link_newest(self, slot)
    local expires, flags = self.expires[slot], self.flags[slot]
    if expires >= 0 and expires < now() then
        return nil, value, flags
    end
    return value, nil, flags
end

function _M.stamp(self, slot, ttl, flags)
    self.expires[slot] = ttl and now() + ttl or never
    self.flags[slot] = type(flags) == "number" and flags >= 0 and flags or 0
end

-- -- The methods that are alike.

function _M.count(self)
    return self.num_items
end

function _M.capacity(self)
    return self.max_items
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

return _M
