-- The worker's pools of connections; manual: sockets.md.

local socket = ngx.socket
local pools = socket.pools
local close_idle = socket.close_idle

local _M = { version = "1.0" }

-- Of one pool, or nil when nothing is open or waited for under that key.
function _M.pool(key)
    return pools(tostring(key))
end

-- Of all pools: a list.
function _M.pools()
    return pools()
end

-- Closes the idle connections of a pool; how many there were.
function _M.close_idle(key)
    return close_idle(tostring(key))
end

return _M
