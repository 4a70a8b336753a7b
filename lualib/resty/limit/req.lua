-- Limits the rate of events by key, with a burst: the leaky bucket of nginx's limit_req.

local ffi = require "ffi"

local ffi_string = ffi.string
local shared = ngx.shared
local now = ngx.now
local abs, max = math.abs, math.max
local assert = assert
local setmetatable = setmetatable
local tonumber = tonumber
local type = type

-- Numbers of thousandths: one event is 1000.
ffi.cdef[[
struct lua_resty_limit_req_rec {
    unsigned long        excess;
    uint64_t             last;
};
]]

local record_pointer = ffi.typeof("const struct lua_resty_limit_req_rec *")
local record_bytes = ffi.sizeof("struct lua_resty_limit_req_rec")
local record = ffi.new("struct lua_resty_limit_req_rec")
local event = 1000

local _M = { _VERSION = "0.09" }
local mt = { __index = _M }

function _M.new(dict_name, rate, burst)
    local dict = shared[dict_name]
    if not dict then
        return nil, "shared dict not found"
    end
    assert(rate > 0 and burst >= 0)
    return setmetatable({ dict = dict, rate = rate * event, burst = burst * event }, mt)
end

-- The record's excess and time; nil when there is none; false when it is none of ours.
local function read(self, key)
    local text = self.dict:get(key)
    if not text then
        return nil
    end
    if type(text) ~= "string" or #text ~= record_bytes then
        return false
    end
    local found = ffi.cast(record_pointer, text)
    return tonumber(found.excess), tonumber(found.last)
end

local function write(self, key, excess, last)
    record.excess = excess
    record.last = last
    self.dict:set(key, ffi_string(record, record_bytes))
end

-- Seconds to wait, and the events per second above the rate; or nil and "rejected".
function _M.incoming(self, key, commit)
    local time = now() * 1000
    local excess, last = read(self, key)
    if excess == false then
        return nil, "shdict abused by other users"
    end
    if excess then
        excess = max(excess - self.rate * abs(time - last) / 1000 + event, 0)
        if excess > self.burst then
            return nil, "rejected"
        end
    else
        excess = 0
    end
    if commit then
        write(self, key, excess, time)
    end
    return excess / self.rate, excess / event
end

function _M.uncommit(self, key)
    assert(key)
    local excess, last = read(self, key)
    if excess == nil then
        return nil, "not found"
    end
    if excess == false then
        return nil, "shdict abused by other users"
    end
    write(self, key, max(excess - event, 0), last)
    return true
end

function _M.set_rate(self, rate)
    self.rate = rate * event
end

function _M.set_burst(self, burst)
    self.burst = burst * event
end

return _M
