-- Answers of Redis, remembered for all workers. Redis is asked again after `fresh` seconds; while
-- it cannot be asked the last answer holds, and for `pause` seconds nobody waits for it.

local redis = require "resty.redis"

local _M = {}
local cache = ngx.shared.store
local at                                      -- { host, port, fresh, pause }

function _M.setup(where)
    at = where
end

local function ask(command, ...)
    local red = redis:new()
    red:set_timeouts(100, 100, 100)
    local ok, err = red:connect(at.host, at.port)
    if not ok then
        return nil, err
    end
    local answer
    answer, err = red[command](red, ...)
    if not answer then                        -- nil: no reply; false: Redis says what is wrong
        return nil, err
    end
    red:set_keepalive(10000, 32)
    return answer
end

-- The answer (text or number) of a command that reads; `default` for null, and for not known.
-- Entries have no expiry, so that they outlive Redis; their flags say when they were asked for.
function _M.get(default, command, ...)
    local name = table.concat({command, ...}, " ")
    local known, asked = cache:get(name)
    if known ~= nil and ngx.time() - (asked or 0) < at.fresh then
        return known
    end
    if not cache:get("pause") then
        local answer, err = ask(command, ...)
        if answer then
            known = answer == ngx.null and default or answer
            cache:set(name, known, 0, ngx.time())
        else
            ngx.log(ngx.ERR, "redis: ", err, "; the last known answers hold")
            cache:set("pause", true, at.pause)
        end
    end
    return known == nil and default or known
end

return _M
