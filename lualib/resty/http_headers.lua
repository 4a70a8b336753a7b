-- A table of header fields that finds them in any case and keeps the case they were set in.
-- Underscores and hyphens are different characters.

local getmetatable = getmetatable
local rawget, rawset = rawget, rawset
local setmetatable = setmetatable
local lower = string.lower

local _M = { _VERSION = "0.17.2" }

local function index(headers, name)
    local key = getmetatable(headers).normalised[lower(name)]
    return key and rawget(headers, key)
end

-- Only reached by keys that are not there in this very case.
local function newindex(headers, name, value)
    local normalised = getmetatable(headers).normalised
    local key = lower(name)
    if not normalised[key] then
        normalised[key] = name
    end
    rawset(headers, normalised[key], value)
end

function _M.new()
    return setmetatable({}, { __index = index, __newindex = newindex, normalised = {} })
end

return _M
