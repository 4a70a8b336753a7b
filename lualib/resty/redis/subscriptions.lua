-- What a subscriber's object remembers: the channels it is on and the messages that came while a
-- command waited for its reply. For resty.redis; it touches no socket.

local ipairs, pairs, type = ipairs, pairs, type

local messages = { message = true, pmessage = true, smessage = true }
local message_of = { unsubscribe = "message", punsubscribe = "pmessage", sunsubscribe = "smessage" }
local opposite = { subscribe = "unsubscribe", psubscribe = "punsubscribe",
                   ssubscribe = "sunsubscribe" }

-- Messages of a channel that was just left are not delivered any more.
local function forget_messages(self, kind, channel)
    local kept = self._messages
    if not kept then
        return
    end
    local left = {}
    for _, message in ipairs(kept) do
        if message[1] ~= kind or message[2] ~= channel then
            left[#left + 1] = message
        end
    end
    self._messages = left[1] ~= nil and left or false
end

-- Keeps the sets of channels in step with what the server confirmed.
local function note_subscription(self, reply)
    if type(reply) ~= "table" then
        return
    end
    local kind, channel = reply[1], reply[2]
    local leaving = opposite[kind]
    if leaving then
        self._channels[leaving][channel] = true
        return
    end
    local kept = message_of[kind]
    if kept then
        if channel ~= nil then
            self._channels[kind][channel] = nil
            forget_messages(self, kept, channel)
        end
        if reply[3] == 0 then
            self._subscribed = false
        end
    end
end

local function count(set)
    local n = 0
    for _ in pairs(set) do
        n = n + 1
    end
    return n
end

-- Sets of channels by the command that leaves them.
local function new_channels()
    return { unsubscribe = {}, punsubscribe = {}, sunsubscribe = {} }
end

-- Keeps a message that nobody has waited for.
local function keep(self, message)
    local kept = self._messages
    if not kept then
        kept = {}
        self._messages = kept
    end
    kept[#kept + 1] = message
end

-- The oldest of them; nil when there is none.
local function take(self)
    local kept = self._messages
    if not kept then
        return nil
    end
    local message = table.remove(kept, 1)
    if kept[1] == nil then
        self._messages = false
    end
    return message
end

return { messages = messages, opposite = opposite, note = note_subscription, count = count,
         new_channels = new_channels, keep = keep, take = take }
