-- Several limiters as one: an event passes when all of them let it.

local max = math.max

local _M = { _VERSION = "0.09" }

-- Asks all but the last without counting the event in none that refuses: the last one counts it
-- first, then the others; a refusal takes back what was counted. `states` gets each one's second
-- result.
local function ask(limiters, keys, states, index, commit)
    local delay, state = limiters[index]:incoming(keys[index], commit)
    if delay and commit and states then
        states[index] = state
    end
    return delay, state
end

local function take_back(limiters, keys, before)
    for index = 1, before - 1 do
        limiters[index]:uncommit(keys[index])
    end
    local last = #limiters
    limiters[last]:uncommit(keys[last])
end

function _M.combine(limiters, keys, states)
    local count = #limiters
    local longest = 0
    for index = 1, count do
        local delay, err = ask(limiters, keys, states, index, index == count)
        if not delay then
            return nil, err
        end
        if index == count then
            longest = delay
        end
    end
    for index = 1, count - 1 do
        local delay, err = ask(limiters, keys, states, index, true)
        if not delay then
            take_back(limiters, keys, index)
            return nil, err
        end
        longest = max(longest, delay)
    end
    return longest
end

return _M
