-- Who may use the gateway: keys.json, read at start and on reload. It holds digests, not keys:
-- who reads the file cannot call the API, and a lookup takes as long for a near miss as for a hit.

local cjson = require "cjson.safe"
local sha256 = require "resty.sha256"
local to_hex = require("resty.string").to_hex

local _M = {}
local by_digest = {}

-- The file: [{"name": "…", "key_sha256": "…", "rate": requests per second, "burst": n}, …]
function _M.load(path)
    local file = assert(io.open(path))
    local list = assert(cjson.decode(file:read("*a")))
    file:close()
    for at, consumer in ipairs(list) do
        local sound = type(consumer.name) == "string" and type(consumer.key_sha256) == "string"
            and #consumer.key_sha256 == 64 and (tonumber(consumer.rate) or 0) > 0
            and (tonumber(consumer.burst) or -1) >= 0
        assert(sound, path .. ": consumer " .. at .. " is not complete")
        by_digest[consumer.key_sha256:lower()] = consumer
    end
end

function _M.by_key(key)
    if not key then
        return nil
    end
    local digest = sha256:new()
    digest:update(key)
    return by_digest[to_hex(digest:final())]
end

return _M
