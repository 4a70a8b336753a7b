-- Limits how many are inside at once, by key; those above the limit wait, those above the burst are
-- rejected.

local shared = ngx.shared
local floor = math.floor
local assert = assert
local setmetatable = setmetatable

local _M = { _VERSION = "0.09" }
local mt = { __index = _M }

function _M.new(dict_name, max, burst, default_conn_delay)
    local dict = shared[dict_name]
    if not dict then
        return nil, "shared dict not found"
    end
    assert(max > 0 and burst >= 0 and default_conn_delay > 0)
    return setmetatable({
        dict = dict,
        max = max + 0,
        burst = burst,
        unit_delay = default_conn_delay,
    }, mt)
end

-- How many there are with this one; nil and the reason when it must not come in.
local function enter(self, key, commit)
    local dict, most = self.dict, self.max + self.burst
    if not commit then
        local count = (dict:get(key) or 0) + 1
        if count > most then
            return nil, "rejected"
        end
        return count
    end
    local count, err = dict:incr(key, 1, 0)
    if not count then
        return nil, err
    end
    if count > most then
        count, err = dict:incr(key, -1)
        return nil, count and "rejected" or err
    end
    self.committed = true
    return count
end

function _M.incoming(self, key, commit)
    self.committed = false
    local count, err = enter(self, key, commit)
    if not count then
        return nil, err
    end
    if count > self.max then
        return self.unit_delay * floor((count - 1) / self.max), count
    end
    return 0, count
end

function _M.is_committed(self)
    return self.committed
end

-- The time a request took corrects the delay that others are given.
function _M.leaving(self, key, req_latency)
    assert(key)
    local count, err = self.dict:incr(key, -1)
    if not count then
        return nil, err
    end
    if req_latency then
        self.unit_delay = (req_latency + self.unit_delay) / 2
    end
    return count
end

function _M.uncommit(self, key)
    assert(key)
    return self.dict:incr(key, -1)
end

function _M.set_conn(self, conn)
    self.max = conn
end

function _M.set_burst(self, burst)
    self.burst = burst
end

return _M
