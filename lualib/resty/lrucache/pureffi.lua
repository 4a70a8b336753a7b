-- resty.lrucache for caches whose keys change all the time: a Lua table keeps the holes of deleted
-- keys until it is rehashed, so keys are found here by a hash table of integers in C memory.

local ffi = require "ffi"
local bit = require "bit"
local new_tab = require "table.new"

local band, rshift, bxor = bit.band, bit.rshift, bit.bxor
local ffi_cast = ffi.cast
local now = ngx.now
local setmetatable = setmetatable
local tonumber = tonumber
local tostring = tostring
local type = type

local _M = { _VERSION = "0.15" }
local mt = { __index = _M }

local ints_t = ffi.typeof("int[?]")
local doubles_t = ffi.typeof("double[?]")
local words_t = ffi.typeof("uint32_t[?]")
local chars_t = ffi.typeof("const char *")
local address_t = ffi.typeof("uintptr_t")

local never = -1
local ring = 0
local load_factor_default, load_factor_min, load_factor_max = 0.5, 0.1, 1

local function bucket_count(size, load_factor)
    load_factor = load_factor or load_factor_default
    load_factor = math.max(load_factor_min, math.min(load_factor_max, load_factor))
    local count = 2
    while count < size / load_factor do
        count = count * 2
    end
    return count
end

function _M.new(size, load_factor)
    if size < 1 then
        return nil, "size too small"
    end
    local buckets = bucket_count(size, load_factor)
    local self = setmetatable({
        size = size,
        bucket_sz = buckets,
        mask = buckets - 1,
        buckets = ints_t(buckets),
        next_in_bucket = ints_t(size + 1),
        newer = ints_t(size + 1),
        older = ints_t(size + 1),
        expires = doubles_t(size + 1),
        flags = words_t(size + 1),
        keys = new_tab(size, 0),
        values = new_tab(size, 0),
        free = 1,
        num_items = 0,
    }, mt)
    for slot = 1, size do
        self.older[slot] = slot + 1
    end
    return self
end

function _M.count(self)
    return self.num_items
end

function _M.capacity(self)
    return self.size
end

-- Equal strings are one object: its address is as good as its text.
local function bucket_of(self, key)
    local address = tonumber(ffi_cast(address_t, ffi_cast(chars_t, key)))
    local low = band(address / 8 % 0x40000000, 0x3fffffff)
    return band(bxor(low, rshift(low, 7), rshift(low, 15)), self.mask)
end

-- The slot of the key (0: none), the one before it in its bucket, and the bucket.
local function find(self, key)
    local bucket = bucket_of(self, key)
    local before, slot = 0, self.buckets[bucket]
    while slot ~= 0 and self.keys[slot] ~= key do
        before, slot = slot, self.next_in_bucket[slot]
    end
    return slot, before, bucket
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

local function remove(self, slot, before, bucket)
    local following = self.next_in_bucket[slot]
    if before == 0 then
        self.buckets[bucket] = following
    else
        self.next_in_bucket[before] = following
    end
    self.keys[slot], self.values[slot] = false, nil
    unlink(self, slot)
    self.num_items = self.num_items - 1
end

local function as_key(key)
    if type(key) == "string" then
        return key
    end
    return tostring(key)
end

function _M.get(self, key)
    local slot = find(self, as_key(key))
    if slot == 0 then
        return nil
    end
    unlink(self, slot)
    link_newest(self, slot)
    local value = self.values[slot]
    local expires, flags = self.expires[slot], tonumber(self.flags[slot])
    if expires >= 0 and expires < now() then
        return nil, value, flags
    end
    return value, nil, flags
end

function _M.delete(self, key)
    local slot, before, bucket = find(self, as_key(key))
    if slot == 0 then
        return false
    end
    remove(self, slot, before, bucket)
    self.older[slot] = self.free
    self.free = slot
    return true
end

local function take_slot(self)
    local slot = self.free
    if slot <= self.size then
        self.free = self.older[slot]
        return slot
    end
    slot = self.newer[ring]              -- the oldest
    remove(self, find(self, self.keys[slot]))
    return slot
end

function _M.set(self, key, value, ttl, flags)
    key = as_key(key)
    local slot = find(self, key)
    if slot == 0 then
        slot = take_slot(self)
        local bucket = bucket_of(self, key)
        self.next_in_bucket[slot] = self.buckets[bucket]
        self.buckets[bucket] = slot
        self.keys[slot] = key
        self.num_items = self.num_items + 1
    else
        unlink(self, slot)
    end
    self.values[slot] = value
    link_newest(self, slot)
    self.expires[slot] = ttl and now() + ttl or never
    self.flags[slot] = type(flags) == "number" and flags >= 0 and flags or 0
end

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
    local slot = self.older[ring]
    while slot ~= ring do
        local older = self.older[slot]
        _M.delete(self, self.keys[slot])
        slot = older
    end
end

return _M
