-- How a session with PostgreSQL begins: TLS, the startup message, proofs of the password, the
-- server's settings. For resty.postgres, whose connection object `self` is.

local scram = require "resty.postgres.scram"
local session = require "resty.postgres.session"
local wire = require "resty.postgres.wire"

local pairs, tostring = pairs, tostring
local sub = string.sub
local message = wire.message
local failed, lost, next_message = session.failed, session.lost, session.next_message
local became_ready, send = session.became_ready, session.send

local AUTH_ROUNDS_MAX = 8
local CANCEL_KEYS_MAX = 10000

-- Messages' kinds
local AUTHENTICATION, BACKEND_KEY = 82, 75
local FAILURE, READY = session.FAILURE, session.READY

-- Cancel keys of sessions that may be in a pool, by address and process number.
local cancel_keys, cancel_keys_count = {}, 0

local function send_password(self, text)
    return send(self, message("p", text .. "\0"))
end

local function md5_password(self, salt)
    return "md5" .. ngx.md5(ngx.md5(self._password .. self._user) .. salt)
end

local function start_sasl(self, mechanisms)
    if not mechanisms:find(scram.MECHANISM .. "\0", 1, true) then
        return nil, "no SASL mechanism in common"
    end
    local state, first = scram.first()
    if not state then
        return nil, first
    end
    self._scram = state
    return send(self, message("p", scram.MECHANISM .. "\0" .. wire.int32(#first) .. first))
end

local method_of = { [0] = "none", [3] = "password", [5] = "md5", [10] = "scram-sha-256" }

-- Answers one request for proof: true to go on, "done" when the server is content.
local function prove(self, code, data)
    local wanted = self._require_auth
    local method = method_of[code]
    if wanted and method and method ~= wanted and not (code == 0 and self._proved) then
        return nil, "the server asks for authentication " .. method .. ", not " .. wanted
    end
    if code == 0 then
        if self._scram and not self._scram.verified then
            return nil, "the server did not prove that it knows the password"
        end
        return "done"
    end
    self._proved = true
    if code == 3 then
        return send_password(self, self._password)
    elseif code == 5 then
        return send_password(self, md5_password(self, sub(data, 1, 4)))
    elseif code == 10 then
        return start_sasl(self, data)
    elseif code == 11 and self._scram then
        local final, err = scram.final(self._scram, self._password, data)
        if not final then
            return nil, err
        end
        return send(self, message("p", final))
    elseif code == 12 and self._scram then
        if not scram.verify(self._scram, data) then
            return nil, "the server did not prove that it knows the password"
        end
        self._scram.verified = true
        return true
    end
    return nil, "unsupported authentication method: " .. code
end

local function authenticate(self)
    for _ = 1, AUTH_ROUNDS_MAX do
        local kind, buf, pos, last = next_message(self)
        if not kind then
            return nil, buf
        elseif kind == FAILURE then
            local _, err, report = failed(self, buf, pos, last)
            lost(self)
            return nil, err, report
        elseif kind ~= AUTHENTICATION or last < pos + 3 then
            return lost(self, "unexpected message during login")
        end
        local ok, err = prove(self, wire.number32(buf, pos), sub(buf, pos + 4, last))
        if not ok then
            return lost(self, err)
        elseif ok == "done" then
            return true
        end
    end
    return lost(self, "too many messages during login")
end

local function keep_cancel_key(self)
    if cancel_keys_count >= CANCEL_KEYS_MAX then
        cancel_keys, cancel_keys_count = {}, 0
    end
    local name = self._address .. "/" .. wire.number32(self._cancel_key, 1)
    if not cancel_keys[name] then
        cancel_keys_count = cancel_keys_count + 1
    end
    cancel_keys[name] = self._cancel_key
end

-- From the server's consent to its first "ready".
local function read_session(self)
    while true do
        local kind, buf, pos, last = next_message(self)
        if not kind then
            return nil, buf
        elseif kind == READY then
            became_ready(self, buf, pos)
            return true
        elseif kind == BACKEND_KEY and last >= pos + 7 then
            self._cancel_key = sub(buf, pos, last)
            keep_cancel_key(self)
        elseif kind == FAILURE then
            return failed(self, buf, pos, last)
        end
    end
end

local function start_tls(self, sock, options)
    local bytes, err = sock:send(wire.SSL_REQUEST)
    if not bytes then
        return nil, err
    end
    -- One byte and no more: what follows it is not for us to read before the handshake.
    local answer
    answer, err = sock:receive(1)
    if not answer then
        return nil, err
    end
    if answer ~= "S" then
        return nil, "the server does not support SSL connections"
    end
    local ok
    ok, err = sock:sslhandshake(false, options.server_name or options.host, options.ssl_verify)
    if not ok then
        return nil, "failed to do ssl handshake: " .. (err or "")
    end
    return true
end

local function log_in(self, options)
    if self._tls then
        local ok, err = start_tls(self, self.sock, options)
        if not ok then
            return lost(self, err)
        end
    end
    local list = { "user", self._user, "database", options.database or self._user,
                   "client_encoding", "UTF8" }
    for name, value in pairs(options.parameters or {}) do
        list[#list + 1] = name
        list[#list + 1] = tostring(value)
    end
    if options.application_name then
        list[#list + 1] = "application_name"
        list[#list + 1] = options.application_name
    end
    local ok, err, report = send(self, wire.startup(list))
    if ok then
        ok, err, report = authenticate(self)
    end
    if ok then
        ok, err, report = read_session(self)
    end
    self._scram = nil
    return ok, err, report
end

-- The cancel key of a session that came from the pool.
local function cancel_key_of(self, process)
    return cancel_keys[self._address .. "/" .. process]
end

return { log_in = log_in, start_tls = start_tls, cancel_key_of = cancel_key_of }
