-- A lock between light threads, requests and workers, kept as a key of a shared dictionary. It ends
-- by itself when its time is over, and when the object that holds it is collected.

require "resty.core.shdict"

local ffi = require "ffi"

local shared = ngx.shared
local sleep = ngx.sleep
local log = ngx.log
local ERR = ngx.ERR
local max, min = math.max, math.min
local setmetatable = setmetatable
local tonumber = tonumber

local _M = { _VERSION = "0.09" }
local mt = { __index = _M }

-- What a finalizer may need: keys and dictionaries by number. Index 0 heads the free numbers.
local memo = {}
local free_head = 0

local function ref_obj(object)
    if object == nil then
        return -1
    end
    local ref = memo[free_head]
    if ref and ref ~= 0 then
        memo[free_head] = memo[ref]
    else
        ref = #memo + 1
    end
    memo[ref] = object
    return ref
end

local function unref_obj(ref)
    if ref >= 0 then
        memo[ref] = memo[free_head]
        memo[free_head] = ref
    end
end

if ngx.config.debug then
    _M.memo, _M.ref_obj, _M.unref_obj = memo, ref_obj, unref_obj
end

local function finalize(handle)
    local dict_id, key_id = tonumber(handle.dict_id), tonumber(handle.key_id)
    if key_id > 0 then
        local key = memo[key_id]
        unref_obj(key_id)
        local ok, err = memo[dict_id]:delete(key)
        if not ok then
            log(ERR, 'failed to delete key "', key, '": ', err)
        end
        handle.key_id = 0
    end
    unref_obj(dict_id)
end

local handle_t = ffi.metatype("struct { int key_id; int dict_id; }", { __gc = finalize })

local exptime_default, timeout_default = 30, 5
local step_default, ratio_default, max_step_default = 0.001, 2, 0.5
local step_min = 0.001

function _M.new(_, dict_name, opts)
    local dict = shared[dict_name]
    if not dict then
        return nil, "dictionary not found"
    end
    opts = opts or {}
    local handle = ffi.new(handle_t)
    handle.key_id = 0
    handle.dict_id = ref_obj(dict)

    local exptime = opts.exptime or exptime_default
    local timeout = opts.timeout and min(opts.timeout, exptime)
    local step = opts.step
    if timeout and step then
        step = min(step, timeout)
    end
    return setmetatable({
        cdata = handle,
        dict = dict,
        timeout = timeout or timeout_default,
        exptime = exptime,
        step = step or step_default,
        ratio = opts.ratio or ratio_default,
        max_step = opts.max_step or max_step_default,
    }, mt)
end

-- True when it is ours now; false when another holds it; nil and the reason.
local function try(self, key)
    local ok, err = self.dict:add(key, true, self.exptime)
    if ok then
        self.cdata.key_id = ref_obj(key)
        self.key = key
        return true
    end
    if err == "exists" then
        return false
    end
    return nil, err
end

-- Waits for the lock, asking again at growing intervals. Returns the seconds waited.
function _M.lock(self, key)
    if not key then
        return nil, "nil key"
    end
    if self.cdata.key_id > 0 then
        return nil, "locked"
    end
    local step, left, elapsed = self.step, self.timeout, 0
    while true do
        local ok, err = try(self, key)
        if ok then
            return elapsed
        end
        if ok == nil then
            return nil, err
        end
        if left <= 0 then
            return nil, "timeout"
        end
        sleep(step)
        elapsed, left = elapsed + step, left - step
        step = max(0, min(max(step_min, step * self.ratio), left, self.max_step))
    end
end

function _M.unlock(self)
    local key_id = tonumber(self.cdata.key_id)
    if key_id <= 0 then
        return nil, "unlocked"
    end
    local key = memo[key_id]
    unref_obj(key_id)
    local ok, err = self.dict:delete(key)
    if not ok then
        return nil, err
    end
    self.cdata.key_id = 0
    return 1
end

function _M.expire(self, time)
    if tonumber(self.cdata.key_id) <= 0 then
        return nil, "unlocked"
    end
    local ok, err = self.dict:replace(self.key, true, time or self.exptime)
    if not ok then
        return nil, err
    end
    return true
end

return _M
