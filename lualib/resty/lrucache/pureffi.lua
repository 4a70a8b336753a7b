-- resty.lrucache for caches whose keys change all the time: a Lua table keeps the holes of deleted
-- keys until it is rehashed, so keys are found here by a hash table of integers in C memory. Their
-- order is kept by resty.lrucache.ring.

local ffi = require "ffi"
local bit = require "bit"
local ring = require "resty.lrucache.ring"
local new_tab = require "table.new"

local band, rshift, bxor = bit.band, bit.rshift, bit.bxor
local ffi_cast = ffi.cast
local max, min = math.max, math.min
local setmetatable = setmetatable
local tonumber = tonumber
local tostring = tostring
local type = type

local _M = { _VERSION = "0.15", count = ring.count, capacity = ring.capacity,
             get_keys = ring.get_keys }
local mt = { __index = _M }

local ints_t = ffi.typeof("int[?]")
local doubles_t = ffi.typeof("double[?]")
local words_t = ffi.typeof("uint32_t[?]")
local chars_t = ffi.typeof("const char *")
local address_t = ffi.typeof("uintptr_t")

local load_factor_default, load_factor_min, load_factor_max = 0.5, 0.1, 1

local function bucket_count(size, load_factor)
    load_factor = max(load_factor_min, min(load_factor_max, load_factor or load_factor_default))
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
        bucket_sz = buckets,
        mask = buckets - 1,
        buckets = ints_t(buckets),
        next_in_bucket = ints_t(size + 1),
        newer = ints_t(size + 1),
        older = ints_t(size + 2),
        expires = doubles_t(size + 1),
        flags = words_t(size + 1),
        keys = new_tab(size, 0),
        values = new_tab(size, 0),
        num_items = 0,
        max_items = size,
        free = 1,
    }, mt)
    ring.clear(self)
    return self
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

local function remove(self, slot, before, bucket)
    local following = self.next_in_bucket[slot]
    if before == 0 then
        self.buckets[bucket] = following
    else
        self.next_in_bucket[before] = following
    end
    self.keys[slot], self.values[slot] = false, nil
    ring.unlink(self, slot)
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
    return ring.use(self, slot, self.values[slot])
end

function _M.delete(self, key)
    local slot, before, bucket = find(self, as_key(key))
    if slot == 0 then
        return false
    end
    remove(self, slot, before, bucket)
    ring.give_back(self, slot)
    return true
end

local function take_slot(self)
    local slot = ring.take_free(self)
    if not slot then
        slot = ring.oldest(self)
        remove(self, find(self, self.keys[slot]))
    end
    self.num_items = self.num_items + 1
    return slot
end

function _M.set(self, key, value, ttl, flags)
    key = as_key(key)
    local slot, _, bucket = find(self, key)
    if slot == 0 then
        slot = take_slot(self)
        self.next_in_bucket[slot] = self.buckets[bucket]
        self.buckets[bucket] = slot
        self.keys[slot] = key
    else
        ring.unlink(self, slot)
    end
    self.values[slot] = value
    ring.link_newest(self, slot)
    ring.stamp(self, slot, ttl, flags)
end

function _M.flush_all(self)
    for slot = 1, self.max_items do
        self.keys[slot], self.values[slot] = nil, nil
    end
    ffi.fill(self.buckets, ffi.sizeof(self.buckets))
    ring.clear(self)
end

return _M
