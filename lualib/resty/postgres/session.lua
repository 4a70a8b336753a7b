-- A session with PostgreSQL, message by message: what comes at any time is dealt with here, what
-- answers a query is passed on; a failure ends the session. For resty.postgres and its other files,
-- whose connection object `self` is.

local wire = require "resty.postgres.wire"

local receive = wire.receive
local sub = string.sub

local NOTIFICATIONS_MAX = 10000

-- Messages' kinds
local FAILURE, NOTICE, NOTIFICATION, PARAMETER_STATUS, READY = 69, 78, 65, 83, 90

-- The session is over, or can no longer be followed.
local function lost(self, err)
    self.sock:close()
    self.state = nil
    return nil, err
end

local function notified(self, buf, pos, last)
    if last < pos + 4 then
        return
    end
    local process = wire.number32(buf, pos)
    local channel, after = wire.cstring(buf, pos + 4, last)
    local payload = channel and wire.cstring(buf, after, last)
    local queue = self._notifications
    queue.last = queue.last + 1
    queue[queue.last] = { channel = channel, payload = payload, pid = process }
    if queue.last - queue.first >= NOTIFICATIONS_MAX then
        queue[queue.first] = nil
        queue.first = queue.first + 1
        self.notifications_lost = self.notifications_lost + 1
    end
end

-- Whether the message is one of those that may come at any time; it has been dealt with then.
local function is_aside(self, kind, buf, pos, last)
    if kind == NOTIFICATION then
        notified(self, buf, pos, last)
    elseif kind == NOTICE then
        if self.on_notice then
            self.on_notice(wire.report(buf, pos, last))
        end
    elseif kind == PARAMETER_STATUS then
        local name, after = wire.cstring(buf, pos, last)
        if name then
            self.parameters[name] = wire.cstring(buf, after, last)
        end
    else
        return false
    end
    return true
end

-- The next message that belongs to what was asked. Any failure ends the session.
local function next_message(self)
    while true do
        local kind, buf, pos, last = receive(self._in, self._message_max)
        if not kind then
            return lost(self, buf)
        end
        if not is_aside(self, kind, buf, pos, last) then
            return kind, buf, pos, last
        end
    end
end

local function send(self, data)
    local bytes, err = self.sock:send(data)
    if not bytes then
        return lost(self, err)
    end
    return bytes
end

local function became_ready(self, buf, pos)
    self.state = "ready"
    self.transaction = sub(buf, pos, pos)
end

-- The server's error: nil, its message, all its fields. After a fatal one nothing comes any more.
local function failed(self, buf, pos, last)
    local report = wire.report(buf, pos, last)
    if report.severity == "FATAL" or report.severity == "PANIC" then
        lost(self)
    end
    return nil, report.message, report
end

-- Skips to the end of what was asked; the results of an error are passed through.
local function until_ready(self, ...)
    while self.state do
        local kind, buf, pos = next_message(self)
        if kind == READY then
            became_ready(self, buf, pos)
            break
        elseif not kind then
            return nil, buf
        end
    end
    return ...
end

-- The oldest notification that nobody has waited for; nil when there is none.
local function take_notification(self)
    local queue = self._notifications
    local first = queue.first
    if first > queue.last then
        return nil
    end
    local notification = queue[first]
    queue[first] = nil
    queue.first = first + 1
    return notification
end

return {
    FAILURE = FAILURE, READY = READY,
    became_ready = became_ready, failed = failed, is_aside = is_aside, lost = lost,
    next_message = next_message, send = send, take_notification = take_notification,
    until_ready = until_ready,
}
