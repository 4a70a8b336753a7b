-- coroutine.*: in a request the scheduler's, so that light threads and waiting calls work inside;
-- where nothing may yield (init, filters as upstream has them) plain Lua's.

local base = require "resty.core.base"

local get_request = base.get_request
local get_raw_phase = ngx.get_raw_phase

local in_header_filter, in_body_filter = 0x20, 0x40

for _, name in ipairs({ "create", "yield", "resume", "status", "wrap" }) do
    local plain = coroutine["_" .. name]
    local scheduled = coroutine["__" .. name]

    coroutine[name] = function(...)
        local r = get_request()
        if r then
            local phase = get_raw_phase(r)
            if phase ~= in_header_filter and phase ~= in_body_filter then
                return scheduled(...)
            end
        end
        return plain(...)
    end
end

package.loaded.coroutine = coroutine

return { version = base.version }
