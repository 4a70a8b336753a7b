-- Which release serves a consumer. `SET gateway:canary 10` in Redis gives the canary ten of a
-- hundred; a consumer stays on its side while the share grows, and 0 takes everybody back.

local store = require "store"

local _M = {}

-- The name of an upstream block.
function _M.release(consumer_name)
    local share = tonumber(store.get(0, "get", "gateway:canary")) or 0
    return ngx.crc32_long(consumer_name) % 100 < share and "canary" or "stable"
end

return _M
